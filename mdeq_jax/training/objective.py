"""The equilibrium layer of training, and the terms that are added to an experiment's loss."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mdeq_jax.implicit import DEQ, Solution, Unrolled
from mdeq_jax.solvers import State
from mdeq_jax.solvers.initial import Kind, initial_state
from mdeq_jax.solvers.keys import sample_keys
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.experiment import (
    Batch,
    Experiment,
    Forward,
    Layer,
    Metrics,
    Variables,
    first_row,
)
from mdeq_jax.training.jacobian import forward_solver, jacobian_term
from mdeq_jax.training.mesh import AXIS
from mdeq_jax.training.microbatches import Draw


def training_layer(config: RunConfig, unrolled: int | None) -> DEQ:
    """Return the equilibrium layer of training steps.

    Args:
      config: the config of the run, with the solvers, the adjoint and the correction.
      unrolled: number of applications of the cell in place of the solve; None solves.
    """
    adjoint = config.adjoint.build(config.solver.backward.build())
    return DEQ(
        forward_solver(config),
        adjoint if unrolled is None else Unrolled(unrolled),
        sample_at=config.correction.sample_at(unrolled or config.solver.forward.max_steps),
        sampling=config.correction.mode,
        phantom=config.adjoint.phantom(),
    )


def bind(
    solve: Callable[..., Solution],
    kind: Literal["own"] | Kind,
    key: PRNGKeyArray,
    batch: Batch,
    adjoint_probe: Float[Array, "B 2"] | None = None,
) -> Layer:
    """Return the layer of one step, with its random numbers bound.

    Args:
      solve: the `DEQ` of the step; its other traced options may be bound.
      kind: kind of the initial states; "own" keeps the application's own.
      key: key of the initial states and of solvers that draw numbers, the same on all devices.
      batch: the batch, each array this device's rows. A row's numbers follow from the key and the
        row's number in the batch of all devices.
      adjoint_probe: zeros whose cotangent is the statistics of the adjoint solve.
    """
    first = first_row(batch)
    # `initial_state` splits the key in two, which uses the numbers 0 and 1.
    keys, others = (sample_keys(jax.random.fold_in(key, i), batch, first) for i in (2, 3))
    layer = Layer(
        functools.partial(solve, key=keys, adjoint_probe=adjoint_probe),
        second=functools.partial(solve, key=others),
    )
    if kind == "own":
        return layer
    start = lambda z0: initial_state(key, z0, kind, first)  # noqa: E731
    return dataclasses.replace(layer, start=start)


def added_terms(
    experiment: Experiment, variables: Variables, batch: Batch, forward: Forward, draw: Draw
) -> Metrics:
    """Return what is added to the loss: correction_term and jacobian_term, where they apply.

    Args:
      experiment: the experiment.
      variables: the model's variables.
      batch: the batch, each array this device's rows.
      forward: the forward pass; without a solution there is nothing to add.
      draw: what the step draws at random.
    """
    terms, solution = {}, forward.solution
    if solution is None:
        return terms
    if solution.sampled:
        decode = functools.partial(experiment.decode, variables, batch=batch, train=True)
        losses = [experiment.loss(variables, decode(z), batch, AXIS)[0] for z in solution.sampled]
        gamma = experiment.config.correction.gamma
        terms["correction_term"] = correction_term(gamma, jnp.stack(losses))
    if draw.gamma is not None:
        key = jax.random.fold_in(draw.key, 0)
        cell = solution if forward.cell is None else forward.cell
        terms["jacobian_term"] = jacobian_term(draw.gamma, cell, key, first_row(batch))
    return terms


def correction_term(gamma: float, losses: Float[Array, " n"]) -> Float[Array, ""]:
    """Return Σ_i γ^(n − i) · ℓ_i, with ℓ_i the loss of the i-th of n sampled states, i from 0.

    The last state, the equilibrium, has weight 1; its loss is not among `losses`.
    """
    n = len(losses)
    return (gamma ** (n - jnp.arange(n)) * losses).sum()


def loss_gradient(
    experiment: Experiment, variables: Variables, batch: Batch
) -> Callable[[State], State]:
    """Return z ↦ ∂ℓ/∂z, the gradient of the loss with respect to the state.

    Batch statistics are not used, and the loss covers this device's rows only: otherwise devices
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
