"""What a training step minimises: the loss at the equilibrium, and the terms added to it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from mdeq_jax.implicit import DEQ, Unrolled
from mdeq_jax.solvers import State
from mdeq_jax.training.jacobian import forward_solver, jacobian_term
from mdeq_jax.vision.config import Config
from mdeq_jax.vision.model import MDEQ, ModelInfo
from mdeq_jax.vision.model.mdeq import cell_function
from mdeq_jax.vision.tasks import Batch, Metrics, make_task


class Draw(NamedTuple):
    """What a training step draws at random.

    Attributes:
      key: of dropout and of probes, the same on all devices.
      gamma: weight of the Jacobian's term; None without regularisation.
      step_limit: of the forward solve; None for the solver's own.
    """

    key: PRNGKeyArray
    gamma: Float[Array, ""] | None = None
    step_limit: Int[Array, ""] | None = None


class Outcome(NamedTuple):
    """What comes of a forward pass beside the value that is minimised.

    Attributes:
      metrics: of the device's share of the batch; their means over devices are the batch's.
      batch_stats: the new running statistics of BatchNorm.
      info: of the model.
    """

    metrics: Metrics
    batch_stats: PyTree
    info: ModelInfo


def make_objective(
    model: MDEQ, config: Config, *, unrolled: int | None
) -> Callable[..., tuple[Float[Array, ""], Outcome]]:
    """Return ``objective(params, probe, batch_stats, batch, draw) -> (value, Outcome)``.

    The metrics are loss, the task's alone, the task's `train_metrics`, solver_steps and residual;
    with fixed-point correction also correction_term, and with Jacobian regularisation
    jacobian_term: what each adds to the value.

    Args:
      model: the model, whose `axis_name` is that of the mesh axis, if the batch is split over one.
      config: for task, solvers, adjoint, correction and Jacobian regularisation.
      unrolled: applications of the cell in place of the solve, or None.
    """
    task, axis_name = make_task(config), model.axis_name
    deq = training_layer(config, unrolled)
    cell = cell_function(model.config, model.dtype)

    def objective(
        params: PyTree,
        probe: Float[Array, "B 2"],
        batch_stats: PyTree,
        batch: Batch,
        draw: Draw,
    ) -> tuple[Float[Array, ""], Outcome]:
        variables = {"params": params, "batch_stats": batch_stats}
        outer_gradient = None
        if config.adjoint.opa_every is not None:
            outer_gradient = loss_gradient(model, variables, batch, task.loss)
        (logits, info), updated = model.apply(
            variables,
            batch["image"],
            deq=deq,
            step_limit=draw.step_limit,
            train=True,
            adjoint_probe=probe,
            outer_gradient=outer_gradient,
            rngs={"dropout": draw.key},
            mutable=["batch_stats", "intermediates"],
        )
        loss = task.loss(logits, batch, axis_name)
        terms = {}
        if info.sampled:
            sampled = [
                task.loss(logits, batch, axis_name)
                for logits in _sampled_logits(model, variables, info.sampled)
            ]
            terms["correction_term"] = correction_term(config.correction.gamma, jnp.stack(sampled))
        if draw.gamma is not None:
            (args,) = updated["intermediates"]["cell_args"]
            key = jax.random.fold_in(draw.key, 0)
            first = 0 if axis_name is None else lax.axis_index(axis_name) * len(batch["image"])
            terms["jacobian_term"] = jacobian_term(draw.gamma, cell, info.z, args, key, first)
        metrics = {
            "loss": loss,
            **task.train_metrics(logits, batch, axis_name),
            "solver_steps": info.solver.steps.mean(),
            "residual": info.solver.residual.mean(),
            **terms,
        }
        return sum(terms.values(), loss), Outcome(metrics, updated["batch_stats"], info)

    return objective


def training_layer(config: Config, unrolled: int | None) -> DEQ:
    """Return the equilibrium layer of training steps, or `unrolled` applications of the cell."""
    return DEQ(
        forward_solver(config),
        config.adjoint.build(config.solver.backward.build())
        if unrolled is None
        else Unrolled(unrolled),
        sample_at=config.correction.sample_at(config.solver.forward.max_steps),
        sampling=config.correction.mode,
        phantom=config.adjoint.phantom(),
    )


def correction_term(gamma: float, losses: Float[Array, " n"]) -> Float[Array, ""]:
    """Return Σ_i γ^(n − i) · the loss of the i-th of n sampled states, i from 0.

    The state after them, the equilibrium, weighs 1 and is not among them.
    """
    n = len(losses)
    return (gamma ** (n - jnp.arange(n)) * losses).sum()


def _sampled_logits(
    model: MDEQ, variables: PyTree, states: tuple[State, ...]
) -> list[Float[Array, "B *pixels num_classes"]]:
    """Logits of sampled states, which leave no trace in BatchNorm's running statistics."""

    def logits(z: State) -> Array:
        output: Any = model.apply(
            variables, z, train=True, method="predict", mutable=["batch_stats"]
        )
        return output[0]

    return [logits(z) for z in states]


def loss_gradient(
    model: MDEQ,
    variables: PyTree,
    batch: Batch,
    loss: Callable[[PyTree, Batch], Float[Array, ""]],
) -> Callable[[State], State]:
    """Return the gradient of a loss by the state.

    BatchNorm goes by its running statistics, and the loss by the device's share of the batch: else
    devices would have to talk to each other within a solve.

    Args:
      model: the model.
      variables: of the model.
      batch: what the loss compares the logits with.
      loss: (logits, batch) to a scalar, as that of a task.
    """
    alone = model.clone(axis_name=None)

    def of_state(z: State) -> Array:
        logits: Any = alone.apply(variables, z, method="predict")
        return loss(logits, batch)

    return jax.grad(of_state)
