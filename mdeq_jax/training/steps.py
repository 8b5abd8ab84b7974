"""The training step, one `jax.shard_map` over the mesh axis "data".

    step → gradient → objective → forward pass of the experiment → equilibrium layer

Each device solves for its own rows of the batch. Devices exchange no data during a solve: there is
no collective operation in a solver loop. Batch statistics reduce over the axis by name; gradients
are averaged here.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from mdeq_jax.stability import gradient_error
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.experiment import (
    Batch,
    Experiment,
    Metrics,
    require_same_structure,
    reset_carry,
    rows_of,
)
from mdeq_jax.training.jacobian import draw_regularization
from mdeq_jax.training.mesh import AXIS
from mdeq_jax.training.microbatches import Draw, Gradient, GradientFunction, Outcome, accumulated
from mdeq_jax.training.objective import added_terms, bind, loss_gradient, training_layer
from mdeq_jax.training.optim import update_ema
from mdeq_jax.training.state import STATE_SPECS, TrainState

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
# (params, probe, collections, batch, carry, draw) -> (value, Outcome)
Objective = Callable[..., tuple[Float[Array, ""], Outcome]]


def make_train_step(
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    unrolled: int | None,
    steps_per_epoch: int,
) -> TrainStep:
    """Return the compiled ``train_step(state, batch) -> (state, metrics)``; it consumes `state`.

    The metrics are means over the batch: the metrics of `make_gradient`, and grad_norm, the global
    norm of the gradient before clipping. Random numbers do not depend on the number of devices.

    Args:
      experiment: the experiment.
      optimizer: the optimizer, as `create_optimizer` returns it.
      mesh: the mesh, as `create_mesh` returns it.
      unrolled: number of applications of the cell in place of the solve (warm-up); None solves.
      steps_per_epoch: number of steps of an epoch.
    """
    config: RunConfig = experiment.config
    gradient = make_gradient(experiment, unrolled=unrolled)
    draw = functools.partial(
        draw_step, config, unrolled=unrolled is not None, steps_per_epoch=steps_per_epoch
    )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        drawn = draw(jax.random.fold_in(state.key, state.step), state.step)
        # Marked as varying, so that each device keeps its own gradient until the one mean below.
        params = lax.pcast(state.params, AXIS, to="varying")
        carry = reset_carry(experiment, state.carry, batch.get("reset"))
        own = gradient(params, state.collections, batch, carry, drawn)
        grads, metrics = lax.pmean((own.grads, own.metrics), AXIS)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(
            state.step + 1, params, dict(own.collections), opt_state, state.key, own.carry
        )
        if config.optim.ema_decay is not None:
            ema = update_ema(state.ema, params, state.step, config.optim.ema_decay)
            new = dataclasses.replace(new, ema=ema)
        if config.train.on_nonfinite == "skip":
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            skipped = dataclasses.replace(state, step=state.step + 1, carry=carry)
            new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, skipped)
        return new, metrics

    specs = STATE_SPECS, PartitionSpec(AXIS)
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=specs, out_specs=(STATE_SPECS, PartitionSpec())
    )
    return jax.jit(mapped, donate_argnums=0)


def draw_step(
    config: RunConfig,
    key: PRNGKeyArray,
    step: Int[Array, ""],
    *,
    unrolled: bool,
    steps_per_epoch: int,
) -> Draw:
    """Return what a training step draws at random.

    Args:
      config: the config of the run.
      key: the step's key, the same on all devices.
      step: number of steps taken so far.
      unrolled: whether the cell is unrolled at this step.
      steps_per_epoch: number of steps of an epoch.
    """
    key, term_key, limit_key = (jax.random.fold_in(key, i) for i in range(3))
    most, fewest = config.solver.forward.max_steps, config.train.fewest_solver_steps
    limit = None if fewest is None else jax.random.randint(limit_key, (), fewest, most + 1)
    if config.jacobian.probability == 0:
        return Draw(key, step_limit=limit)
    options = {"unrolled": unrolled, "steps_per_epoch": steps_per_epoch}
    limit = most if limit is None else limit
    return Draw(key, *draw_regularization(config, term_key, step, limit=limit, **options))


def make_gradient(experiment: Experiment, *, unrolled: int | None) -> GradientFunction:
    """Return ``gradient(params, collections, batch, carry, draw)``, the gradient of the objective.

    The metrics include the metrics of `make_objective`. A model with an equilibrium adds
    adjoint_steps and adjoint_residual. The exact gradient of a solved equilibrium adds
    adjoint_converged, the share of samples whose adjoint residual is at most
    config.solver.backward.tol. If both solvers stop each sample by itself, it also adds
    gradient_error, an estimate of the gradient's relative error. With config.train.accumulate_steps
    above 1, gradient and metrics are means over microbatches (`accumulated`).

    Args:
      experiment: the experiment.
      unrolled: number of applications of the cell in place of the solve; None solves.
    """
    config: RunConfig = experiment.config
    objective = make_objective(experiment, unrolled=unrolled)
    solvers = config.solver.forward, config.solver.backward
    by_sample = all(solver.stop_scope == "sample" for solver in solvers)
    solves_adjoint = config.adjoint.name == "exact" and unrolled is None

    def gradient(
        params: PyTree, collections: Mapping[str, PyTree], batch: Batch, carry: PyTree, draw: Draw
    ) -> Gradient:
        probe = lax.pcast(jnp.zeros((rows_of(batch), 2)), AXIS, to="varying")
        value = jax.grad(objective, argnums=(0, 1), has_aux=True)
        (grads, adjoint), outcome = value(params, probe, collections, batch, carry, draw)
        metrics = outcome.metrics
        if outcome.solution is not None:
            steps, residuals = adjoint.T
            metrics["adjoint_steps"] = steps.mean()
            metrics["adjoint_residual"] = residuals.mean()
            if solves_adjoint:
                metrics["adjoint_converged"] = (residuals <= config.solver.backward.tol).mean()
            if solves_adjoint and by_sample:
                stop_mode = config.solver.forward.stop_mode
                errors = gradient_error(outcome.solution.result, adjoint, stop_mode)
                metrics["gradient_error"] = errors.mean()
        return Gradient(grads, outcome.collections, metrics, outcome.carry)

    parts = config.train.accumulate_steps
    return gradient if parts == 1 else accumulated(gradient, parts)


def make_objective(experiment: Experiment, *, unrolled: int | None) -> Objective:
    """Return ``objective(params, probe, collections, batch, carry, draw) -> (value, Outcome)``.

    It runs on each device under `shard_map` over the mesh axis "data". The metrics are the
    experiment's loss ("loss") and its other metrics. A forward solve adds solver_steps and
    residual. Fixed-point correction adds correction_term, and Jacobian regularisation adds
    jacobian_term; each is the term that is added to the value.

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
        solve = functools.partial(deq, step_limit=draw.step_limit, outer_gradient=outer)
        layer_key = jax.random.fold_in(draw.key, 1)
        layer = bind(solve, config.train.initial_state, layer_key, batch, probe)
        forward = experiment.forward(variables, batch, layer, train=True, key=draw.key, carry=carry)
        require_same_structure("collections", forward.collections, collections)
        require_same_structure("carry", forward.carry, carry)
        batch = batch if forward.batch is None else forward.batch
        loss, metrics = experiment.loss(variables, forward.outputs, batch, AXIS)
        metrics = {"loss": loss, **metrics}
        solution = forward.solution
        if solution is not None:
            metrics["solver_steps"] = solution.result.steps.mean()
            metrics["residual"] = solution.result.residual.mean()
        terms = added_terms(experiment, variables, batch, forward, draw)
        outcome = Outcome(metrics | terms, forward.collections, forward.carry, solution)
        return sum(terms.values(), loss), outcome

    return objective
