"""The training step and the evaluation step, each one `jax.shard_map` over the mesh axis "data".

A device solves for its rows of the batch and exchanges nothing with the others meanwhile: there is
no collective in a solver loop. Batch statistics reduce over the axis by name; gradients are
averaged here.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, PyTree

from mdeq_jax.implicit import DEQ, Solution, Unrolled
from mdeq_jax.solvers.norms import select
from mdeq_jax.stability import spectral_radius
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.experiment import Batch, Evaluation, Experiment, Metrics, Variables
from mdeq_jax.training.jacobian import draw
from mdeq_jax.training.mesh import AXIS, shard
from mdeq_jax.training.microbatches import make_gradient
from mdeq_jax.training.objective import Draw
from mdeq_jax.training.state import STATE_SPECS, TrainState

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
# (variables, batch, carry) -> (sums, what is recorded of each row, new carry)
EvalStep = Callable[[Variables, Batch, PyTree], tuple[PyTree, Array, PyTree]]


def make_put(experiment: Experiment, mesh: Mesh) -> Callable[[PyTree], Batch]:
    """Return a function that moves a host batch to the devices and prepares it there.

    Args:
      experiment: the experiment, for its `prepare`.
      mesh: the mesh, as `create_mesh` returns it.
    """
    prepare = jax.jit(experiment.prepare)
    return lambda batch: prepare(shard(batch, mesh))


def make_train_step(
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    unrolled: int | None,
    steps_per_epoch: int,
) -> TrainStep:
    """Return the compiled ``train_step(state, batch) -> (state, metrics)``; it consumes `state`.

    The metrics are means over the batch: those of `make_gradient`, and grad_norm, the global norm
    of the gradient before clipping. Random numbers do not depend on the number of devices.

    Args:
      experiment: the experiment.
      optimizer: the optimizer, as `create_optimizer` returns it.
      mesh: the mesh, as `create_mesh` returns it.
      unrolled: number of applications of the cell in place of the solve (warm-up); None solves.
      steps_per_epoch: number of steps of an epoch.
    """
    config: RunConfig = experiment.config
    gradient = make_gradient(experiment, unrolled=unrolled)
    regularized = config.jacobian.probability > 0
    draw_term = functools.partial(
        draw, config, unrolled=unrolled is not None, steps_per_epoch=steps_per_epoch
    )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(state.key, state.step)
        key, term_key = (jax.random.fold_in(step_key, i) for i in range(2))
        drawn = Draw(key, *(draw_term(term_key, state.step) if regularized else ()))
        # Marked as varying, each device keeps its own gradient until the one mean below.
        params = lax.pcast(state.params, AXIS, to="varying")
        carry = _reset(experiment, state.carry, batch.get("reset"))
        own = gradient(params, state.collections, batch, carry, drawn)
        grads, metrics = lax.pmean((own.grads, own.metrics), AXIS)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(
            state.step + 1, params, dict(own.collections), opt_state, state.key, own.carry
        )
        if state.ema is not None:
            new = dataclasses.replace(new, ema=update_ema(state.ema, params, config.optim))
        if config.train.on_nonfinite == "skip":
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            skipped = dataclasses.replace(state, step=state.step + 1)
            new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, skipped)
        return new, metrics

    specs = STATE_SPECS, PartitionSpec(AXIS)
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=specs, out_specs=(STATE_SPECS, PartitionSpec())
    )
    return jax.jit(mapped, donate_argnums=0)


def make_eval_step(
    experiment: Experiment, mesh: Mesh, evaluation: Evaluation, *, unrolled: int | None
) -> EvalStep:
    """Return the compiled ``eval_step(variables, batch, carry) -> (sums, records, carry)``.

    The sums, over the rows where the batch's "mask" is True, are those of `Experiment.sums`,
    "count", the number of rows, and "statistics", the sums of the experiment's statistics. The
    records, one for each row, are sharded as the batch is.

    Args:
      experiment: the experiment.
      mesh: the mesh, as `create_mesh` returns it.
      evaluation: which evaluation.
      unrolled: number of applications of the cell in place of the solve (warm-up); None solves.
    """
    layer = evaluation_layer(experiment.config, unrolled, evaluation)

    def step(variables: Variables, batch: Batch, carry: PyTree) -> tuple[PyTree, Array, PyTree]:
        carry = _reset(experiment, carry, batch.get("reset"))
        prediction = experiment.predict(variables, batch, layer, carry)
        sums = {
            **experiment.sums(prediction.outputs, batch),
            "count": batch["mask"].sum().astype(jnp.float32),
            "statistics": masked_sums(prediction.statistics, batch["mask"]),
        }
        return lax.psum(sums, AXIS), experiment.record(prediction.outputs), prediction.carry

    rows = PartitionSpec(AXIS)
    specs = PartitionSpec(), rows, rows
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=specs)
    return jax.jit(mapped)


def evaluation_layer(
    config: RunConfig, unrolled: int | None = None, evaluation: Evaluation | None = None
) -> DEQ:
    """Return the equilibrium layer of an evaluation.

    Args:
      config: for the forward solver.
      unrolled: number of applications of the cell in place of the solve (warm-up); None solves.
      evaluation: may name another solver or limit of steps; None keeps those of the config.
    """
    solver = config.solver.forward.build()
    if evaluation is not None:
        solver = evaluation.solver or solver
        if evaluation.max_steps is not None:
            solver = dataclasses.replace(solver, max_steps=evaluation.max_steps)
    return DEQ(solver) if unrolled is None else DEQ(solver, Unrolled(unrolled))


def solver_statistics(
    config: RunConfig, solution: Solution | None
) -> dict[str, Float[Array, " B"]]:
    """Return what evaluation reports of a solve, a number for each sample.

    These are solver_steps, residual and converged, and spectral_radius (the Jacobian's at the
    equilibrium) where config.train.spectral_radius_iterations asks for it. A model without an
    equilibrium (None) has none of them.
    """
    if solution is None:
        return {}
    result, iterations = solution.result, config.train.spectral_radius_iterations
    statistics = {
        "solver_steps": result.steps,
        "residual": result.residual,
        "converged": result.converged,
    }
    if iterations > 0:
        key = jax.random.key(0)
        radius = spectral_radius(solution.f, solution.z, solution.args, key, iterations)
        statistics["spectral_radius"] = radius
    return statistics


def masked_sums(
    values: Mapping[str, Float[Array, " B"]], mask: Bool[Array, " B"]
) -> dict[str, Float[Array, ""]]:
    """Return the sum of each array over the rows where the mask is True."""
    # Not a product: the residual of a row that is padding may be other than finite.
    return {name: jnp.where(mask, value, 0).sum() for name, value in values.items()}


def _reset(experiment: Experiment, carry: PyTree, reset: Bool[Array, " B"] | None) -> PyTree:
    """Return the carry with fresh rows where `reset` is True."""
    if reset is None:
        return carry
    fresh = lax.pcast(experiment.init_carry(len(reset)), AXIS, to="varying")
    return select(reset, fresh, carry)
