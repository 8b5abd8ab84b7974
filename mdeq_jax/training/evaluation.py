"""Evaluation over a whole data set, and the traces of both solves on a batch."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, Shaped

from mdeq_jax.implicit import Exact, equilibrium
from mdeq_jax.runtime.hosts import gather_rows
from mdeq_jax.solvers import solve
from mdeq_jax.training.objective import loss_gradient
from mdeq_jax.training.steps import make_put
from mdeq_jax.vision import data
from mdeq_jax.vision.config import IGNORE, Config, DataConfig
from mdeq_jax.vision.model import MDEQ
from mdeq_jax.vision.segment import padding
from mdeq_jax.vision.tasks import Batch, Metrics, Task, make_task

# What an evaluation step sums besides what the task does: the means of these are reported.
_STATISTICS = ("solver_steps", "residual", "converged", "spectral_radius")


def require_fit(config: Config, dataset: data.Dataset) -> None:
    """Raise ValueError unless the configured model is one for the data set.

    Args:
      config: of the run.
      dataset: as `find_dataset` returns it.
    """
    name, num_classes = config.data.name, len(dataset.class_names)
    offered = {dataset.task, *(["classification"] if dataset.image_labels else [])}
    if config.model.task not in offered:
        raise ValueError(
            f"config.model.task is {config.model.task!r}, but data set {name!r} is for "
            f"{dataset.task}; set it to that."
        )
    if "classification" in config.model.extra_heads and not dataset.image_labels:
        raise ValueError(
            f"config.model.extra_heads is {config.model.extra_heads}, but data set {name!r} has no "
            "label for an image as a whole; leave 'classification' out."
        )
    if num_classes != config.model.num_classes:
        raise ValueError(
            f"config.model.num_classes is {config.model.num_classes}, but data set "
            f"{name!r} has {num_classes} classes; set it to that."
        )


def evaluate(
    eval_step: Callable[[PyTree, Batch], tuple[Metrics, Array]],
    variables: PyTree,
    config: DataConfig,
    mesh: Mesh,
    task: Task,
    on_outputs: Callable[[Shaped[np.ndarray, "n ..."]], None] | None = None,
) -> dict[str, float]:
    """Return the metrics of the evaluation split, in which each image counts once.

    Args:
      eval_step: as `make_eval_step` returns it.
      variables: of the model, replicated over the mesh.
      config: the data set, of which every process reads its share.
      mesh: as `create_mesh` returns it.
      task: as `make_task` returns it.
      on_outputs: called in every process with the task's outputs of each batch's images, those of
        all processes, without those that are padding.

    Returns:
      The task's metrics, each under ``eval/``, with ``eval/solver_steps``, ``eval/residual``,
      ``eval/converged`` (a share), ``eval/spectral_radius`` where the config asks for it, and
      ``eval/examples``.
    """
    batches = data.eval_batches(
        config, process_index=jax.process_index(), process_count=jax.process_count()
    )
    put, sums = make_put(data.find_dataset(config).normalise, mesh), []
    for batch in batches:
        batch_sums, outputs = eval_step(variables, put(batch))
        sums.append(jax.tree.map(_widen, jax.device_get(batch_sums)))
        if on_outputs is not None:
            local = np.concatenate([piece.data for piece in outputs.addressable_shards])
            rows, mask = gather_rows((local, batch["mask"]))
            on_outputs(rows[mask])
    total = jax.tree.map(lambda *parts: sum(parts), *sums)
    metrics = task.summarize(total)
    metrics |= {name: float(total[name] / total["count"]) for name in _STATISTICS if name in total}
    named = {f"eval/{name}": value for name, value in metrics.items()}
    return {**named, "eval/examples": float(total["count"])}


def _widen(sums: np.ndarray) -> np.ndarray:
    """The sums of a batch in types in which those of a data set lose nothing."""
    return sums.astype(np.int64 if np.issubdtype(sums.dtype, np.integer) else np.float64)


def _pad(batch: dict[str, np.ndarray], divisor: int) -> dict[str, np.ndarray]:
    """A batch whose images the model takes; where they are padded, no pixel counts."""
    image, label = batch["image"], batch["label"]
    if label.ndim > 1:
        image = np.pad(image, padding(image.shape, divisor))
        label = np.pad(label, padding(label.shape, divisor), constant_values=IGNORE)
    return {**batch, "image": image, "label": label}


def solver_traces(
    model: MDEQ, config: Config, variables: PyTree, batch: dict[str, np.ndarray]
) -> tuple[Float[Array, "forward_steps B"], Float[Array, "backward_steps B"]]:
    """Return the residuals of the forward and of the exact adjoint solve after each step.

    Args:
      model: the model.
      config: for both solvers.
      variables: of the model, on the host.
      batch: as `eval_batches` yields it, images normalised.
    """
    forward, backward = config.solver.forward.build(), config.solver.backward.build()
    batch = _pad(batch, config.model.size_divisor)

    @jax.jit
    def traces(variables: PyTree, batch: dict[str, Array]) -> tuple[Array, Array]:
        problem: Any = model.apply(variables, batch["image"], method="problem")
        f, z0, args = problem
        result = solve(f, z0, args, forward)

        _, pullback = jax.vjp(lambda z: f(z, args), result.z)
        g = loss_gradient(model, variables, batch, make_task(config).loss)(result.z)
        adjoint = Exact(backward).solve(lambda u: pullback(u)[0], g, equilibrium)
        return result.trace, adjoint.trace

    return traces(variables, batch)
