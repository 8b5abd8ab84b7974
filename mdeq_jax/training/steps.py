"""The training step and the evaluation step, each one `jax.shard_map` over the mesh axis "data".

A device solves for its share of the batch without talking to the others: there is no collective in
a solver loop. BatchNorm reduces over the axis by name; gradients are averaged here.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree, UInt8

from mdeq_jax.implicit import DEQ, Unrolled
from mdeq_jax.solvers import SolverResult
from mdeq_jax.stability import spectral_radius
from mdeq_jax.training.jacobian import draw
from mdeq_jax.training.microbatches import make_gradient
from mdeq_jax.training.objective import Draw
from mdeq_jax.training.state import TrainState
from mdeq_jax.vision.config import Config, DataConfig
from mdeq_jax.vision.model import MDEQ
from mdeq_jax.vision.model.mdeq import cell_function
from mdeq_jax.vision.tasks import Batch, Metrics, make_task, masked_sums

AXIS = "data"


def create_mesh() -> Mesh:
    """Return the mesh ("data",) over all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch_sizes(data: DataConfig, mesh: Mesh, accumulate_steps: int = 1) -> None:
    """Raise ValueError unless both batch sizes divide evenly over the devices of the mesh.

    Args:
      data: with the batch sizes.
      mesh: as `create_mesh` returns it.
      accumulate_steps: microbatches that a device's share of a training batch is divided into.
    """
    parts_of = {"batch_size": accumulate_steps, "eval_batch_size": 1}
    for field, parts in parts_of.items():
        size = getattr(data, field)
        times = "" if parts == 1 else f" times config.train.accumulate_steps, {parts}"
        if size % (mesh.size * parts):
            raise ValueError(
                f"config.data.{field} is {size}; it must be a multiple of {mesh.size}, the number "
                f"of devices{times}."
            )


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a copy of every array, which all processes have alike, on every device."""
    sharding = NamedSharding(mesh, PartitionSpec())
    # Not by device_put, in which processes would compare every array with each other.
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def shard(batch: PyTree, mesh: Mesh) -> PyTree:
    """Put this process's share of a batch of host arrays on its devices, batch axis split."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def make_put(
    normalise: Callable[[UInt8[Array, "B H W 3"]], Float[Array, "B H W 3"]], mesh: Mesh
) -> Callable[[PyTree], Batch]:
    """Return ``put(batch)``: `shard`, and the images, which travel in 8 bits, normalised there.

    Args:
      normalise: as of a data set.
      mesh: as `create_mesh` returns it.
    """
    compiled = jax.jit(normalise)

    def put(batch: PyTree) -> Batch:
        placed = shard(batch, mesh)
        return {**placed, "image": compiled(placed["image"])}

    return put


def make_train_step(
    model: MDEQ,
    config: Config,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    unrolled: int | None,
    steps_per_epoch: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Return the compiled ``train_step(state, batch) -> (state, metrics)``; it consumes `state`.

    The metrics are means over the batch: those of `make_gradient`, and grad_norm, the global norm
    of the gradient before clipping. What is drawn at random does not depend on the number of
    devices.

    Args:
      model: made with ``axis_name="data"``.
      config: for solvers, adjoint, correction, Jacobian regularisation and microbatches.
      optimizer: as `create_optimizer` returns it.
      mesh: as `create_mesh` returns it.
      unrolled: applications of the cell in place of the solve, for the first steps; or None.
      steps_per_epoch: number of steps of an epoch.
    """
    gradient = make_gradient(model, config, unrolled=unrolled)
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
        own = gradient(params, state.batch_stats, batch, drawn)
        grads, metrics = lax.pmean((own.grads, own.metrics), AXIS)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step + 1, params, own.batch_stats, opt_state, state.key)
        if config.train.on_nonfinite == "skip":
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            skipped = dataclasses.replace(state, step=state.step + 1)
            new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, skipped)
        return new, metrics

    return jax.jit(_map_over_devices(step, mesh, PartitionSpec()), donate_argnums=0)


def make_eval_step(
    model: MDEQ, config: Config, mesh: Mesh, *, unrolled: int | None
) -> Callable[[PyTree, Batch], tuple[Metrics, Array]]:
    """Return the compiled ``eval_step(variables, batch) -> (sums, outputs)``.

    The sums are those of the task, and of count, solver_steps, residual and converged, and of
    spectral_radius where the config asks for it, over the images that are not masked out. The
    task's outputs, a row per image, are sharded as the batch is.

    Args: as of `make_train_step`.
    """
    task, forward = make_task(config), make_forward(model, config, unrolled=unrolled)

    def step(variables: PyTree, batch: Batch) -> tuple[Metrics, Array]:
        bound = functools.partial(forward, variables)
        logits, statistics = task.predict(bound, batch["image"])
        values = {"count": jnp.ones(len(batch["mask"])), **statistics}
        sums = {**task.sums(logits, batch), **masked_sums(values, batch["mask"])}
        return lax.psum(sums, AXIS), task.output(logits)

    out_specs = (PartitionSpec(), PartitionSpec(AXIS))
    return jax.jit(_map_over_devices(step, mesh, out_specs))


def make_forward(
    model: MDEQ, config: Config, *, unrolled: int | None
) -> Callable[[PyTree, Float[Array, "B H W 3"]], tuple[Array, Metrics]]:
    """Return ``forward(variables, images) -> (logits, statistics)`` of a model in evaluation.

    The statistics, a number per image, are solver_steps, residual and converged, and
    spectral_radius where the config asks for it.

    Args: as of `make_train_step`.
    """
    solver = config.solver.forward.build()
    deq = DEQ(solver) if unrolled is None else DEQ(solver, Unrolled(unrolled))
    cell = cell_function(model.config, model.dtype)
    iterations = config.train.spectral_radius_iterations

    def forward(variables: PyTree, images: Float[Array, "B H W 3"]) -> tuple[Array, Metrics]:
        output: Any = model.apply(variables, images, deq=deq, mutable=["intermediates"])
        (logits, info), sown = output
        statistics = solver_statistics(info.solver)
        if iterations > 0:
            (args,) = sown["intermediates"]["cell_args"]
            key = jax.random.key(0)
            statistics["spectral_radius"] = spectral_radius(cell, info.z, args, key, iterations)
        return logits, statistics

    return forward


def solver_statistics(result: SolverResult) -> dict[str, Array]:
    """Return what evaluation reports of a solve, an array (B,) each."""
    return {
        "solver_steps": result.steps,
        "residual": result.residual,
        "converged": result.converged,
    }


def _map_over_devices(
    step: Callable[[PyTree, Batch], Any], mesh: Mesh, out_specs: PyTree
) -> Callable[..., Any]:
    """Run step(replicated, sharded batch) on every device."""
    in_specs = (PartitionSpec(), PartitionSpec(AXIS))
    return jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
