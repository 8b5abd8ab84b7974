"""What a training step minimises: the loss at the equilibrium, and the terms added to it."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from mdeq_jax.implicit import DEQ, Solution, Unrolled
from mdeq_jax.solvers import State
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.experiment import Batch, Experiment, Metrics, Variables
from mdeq_jax.training.jacobian import forward_solver, jacobian_term
from mdeq_jax.training.mesh import AXIS


class Draw(NamedTuple):
    """What a training step draws at random.

    Attributes:
      key: key of dropout and of probes, the same on all devices.
      gamma: weight of the Jacobian's term; None without regularisation.
      step_limit: limit of the forward solve's steps; None keeps the solver's own.
    """

    key: PRNGKeyArray
    gamma: Float[Array, ""] | None = None
    step_limit: Int[Array, ""] | None = None


class Outcome(NamedTuple):
    """What a forward pass returns beside the value that is minimised.

    Attributes:
      metrics: metrics of the device's rows; their means over devices are those of the batch.
      collections: the new values of the Flax collections other than "params".
      carry: the new carry.
      solution: what the layer returned; None for a model without an equilibrium.
    """

    metrics: Metrics
    collections: Mapping[str, PyTree]
    carry: PyTree
    solution: Solution | None


Objective = Callable[..., tuple[Float[Array, ""], Outcome]]


def make_objective(experiment: Experiment, *, unrolled: int | None) -> Objective:
    """Return ``objective(params, probe, collections, batch, carry, draw) -> (value, Outcome)``.

    It runs on each device under `shard_map` over the mesh axis "data". The metrics are the
    experiment's loss ("loss") and its other metrics; of the forward solve, solver_steps and
    residual; with fixed-point correction correction_term, and with Jacobian regularisation
    jacobian_term: what each adds to the value.

    Args:
      experiment: the experiment, with solvers, adjoint, correction and Jacobian regularisation in
        its config.
      unrolled: number of applications of the cell in place of the solve; None solves.
    """
    config: RunConfig = experiment.config
    deq = training_layer(config, unrolled)

    def objective(
        params: PyTree,
        probe: Float[Array, "B 2"],
        collections: Mapping[str, PyTree],
        batch: Batch,
        carry: PyTree,
        draw: Draw,
    ) -> tuple[Float[Array, ""], Outcome]:
        variables = {"params": params, **collections}
        outer = None
        if config.adjoint.opa_every is not None:
            outer = loss_gradient(experiment, variables, batch)
        layer = functools.partial(
            deq, step_limit=draw.step_limit, adjoint_probe=probe, outer_gradient=outer
        )
        forward = experiment.forward(variables, batch, layer, train=True, key=draw.key, carry=carry)
        loss, metrics = experiment.loss(variables, forward.outputs, batch, AXIS)
        metrics, terms = {"loss": loss, **metrics}, {}
        solution = forward.solution
        if solution is not None:
            metrics["solver_steps"] = solution.result.steps.mean()
            metrics["residual"] = solution.result.residual.mean()
            terms = _terms(experiment, variables, batch, solution, draw)
        outcome = Outcome(metrics | terms, forward.collections, forward.carry, solution)
        return sum(terms.values(), loss), outcome

    return objective


def training_layer(config: RunConfig, unrolled: int | None) -> DEQ:
    """Return the equilibrium layer of training steps.

    Args:
      config: for the solvers, the adjoint and the correction.
      unrolled: number of applications of the cell in place of the solve; None solves.
    """
    adjoint = config.adjoint.build(config.solver.backward.build())
    return DEQ(
        forward_solver(config),
        adjoint if unrolled is None else Unrolled(unrolled),
        sample_at=config.correction.sample_at(config.solver.forward.max_steps),
        phantom=config.adjoint.phantom(),
    )


def _terms(
    experiment: Experiment, variables: Variables, batch: Batch, solution: Solution, draw: Draw
) -> Metrics:
    """Return what is added to the loss."""
    terms = {}
    if solution.sampled:
        decode = functools.partial(experiment.decode, variables, batch=batch, train=True)
        losses = [experiment.loss(variables, decode(z), batch, AXIS)[0] for z in solution.sampled]
        gamma = experiment.config.correction.gamma
        terms["correction_term"] = correction_term(gamma, jnp.stack(losses))
    if draw.gamma is not None:
        key = jax.random.fold_in(draw.key, 0)
        first_row = lax.axis_index(AXIS) * rows_of(batch)
        terms["jacobian_term"] = jacobian_term(draw.gamma, solution, key, first_row)
    return terms


def rows_of(batch: Batch) -> int:
    """Return the number of rows of a batch."""
    return len(jax.tree.leaves(batch)[0])


def correction_term(gamma: float, losses: Float[Array, " n"]) -> Float[Array, ""]:
    """Return Σ_i γ^(n − i) · ℓ_i, with ℓ_i the loss of the i-th of n sampled states, i from 0.

    The state after them, the equilibrium, has weight 1 and is not among them.
    """
    n = len(losses)
    return (gamma ** (n - jnp.arange(n)) * losses).sum()


def loss_gradient(
    experiment: Experiment, variables: Variables, batch: Batch
) -> Callable[[State], State]:
    """Return z ↦ ∂ℓ/∂z, the gradient of the loss by the state.

    Batch statistics are not used, and the loss is that of the device's rows: otherwise devices
    would have to exchange values within a solve.

    Args:
      experiment: the experiment.
      variables: the model's variables.
      batch: the batch, each array this device's rows.
    """

    def loss(z: State) -> Array:
        outputs = experiment.decode(variables, z, batch, train=False)
        return experiment.loss(variables, outputs, batch, None)[0]

    return jax.grad(loss)
