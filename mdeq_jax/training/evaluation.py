"""Evaluation over a whole data set, and the traces of both solves on a batch."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from mdeq_jax import data
from mdeq_jax.config import Config, DataConfig
from mdeq_jax.implicit import Exact, equilibrium
from mdeq_jax.models import MDEQ
from mdeq_jax.solvers import solve
from mdeq_jax.training.objective import loss_gradient
from mdeq_jax.training.steps import Batch, Metrics, shard


def evaluate(
    eval_step: Callable[[PyTree, Batch], tuple[Metrics, Array]],
    variables: PyTree,
    data_config: DataConfig,
    mesh: Mesh,
    on_logits: Callable[[Float[np.ndarray, "n num_classes"]], None] | None = None,
) -> dict[str, float]:
    """Return means over the images of the evaluation split, each counted once.

    Args:
      eval_step: as `make_eval_step` returns it.
      variables: of the model, replicated over the mesh.
      data_config: the data set, of which every process reads its share.
      mesh: as `create_mesh` returns it.
      on_logits: called with the logits of each batch's images, those that are padding left out.

    Returns:
      ``eval/accuracy``, ``eval/loss``, ``eval/solver_steps``, ``eval/residual``,
      ``eval/converged`` (a share, like the accuracy), ``eval/spectral_radius`` where the config
      asks for it, and ``eval/examples``.
    """
    batches = data.eval_batches(
        data_config, process_index=jax.process_index(), process_count=jax.process_count()
    )
    sums = []
    for batch in batches:
        batch_sums, logits = eval_step(variables, shard(batch, mesh))
        sums.append(jax.device_get(batch_sums))
        if on_logits is not None:
            local = np.concatenate([piece.data for piece in logits.addressable_shards])
            on_logits(local[batch["mask"]])
    total = {name: float(sum(s[name] for s in sums)) for name in sums[0]}
    count = total.pop("count")
    means = {f"eval/{name}": value / count for name, value in total.items()}
    return {**means, "eval/examples": count}


def solver_traces(
    model: MDEQ, config: Config, variables: PyTree, batch: dict[str, np.ndarray]
) -> tuple[Float[Array, "forward_steps B"], Float[Array, "backward_steps B"]]:
    """Return the residuals of the forward and of the exact adjoint solve after each step.

    Args:
      model: the model.
      config: for both solvers.
      variables: of the model, on the host.
      batch: as `eval_batches` yields it.
    """
    forward, backward = config.solver.forward.build(), config.solver.backward.build()

    @jax.jit
    def traces(variables: PyTree, batch: dict[str, Array]) -> tuple[Array, Array]:
        problem: Any = model.apply(variables, batch["image"], method="problem")
        f, z0, args = problem
        result = solve(f, z0, args, forward)

        _, pullback = jax.vjp(lambda z: f(z, args), result.z)
        g = loss_gradient(config.model, variables, batch["label"])(result.z)
        adjoint = Exact(backward).solve(lambda u: pullback(u)[0], g, equilibrium)
        return result.trace, adjoint.trace

    return traces(variables, batch)
