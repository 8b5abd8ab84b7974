"""Measurements of a trained model: its gradient, its scales, and its latency."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PyTree

from mdeq_jax.applications import create_experiment
from mdeq_jax.implicit import Solution
from mdeq_jax.solvers import State
from mdeq_jax.training.config import RunConfig, override
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.experiment import (
    Batch,
    Experiment,
    Layer,
    Prediction,
    Solve,
    Variables,
    make_put,
)
from mdeq_jax.training.mesh import AXIS, create_mesh, replicate
from mdeq_jax.training.microbatches import Draw
from mdeq_jax.training.state import STATE_SPECS, TrainState
from mdeq_jax.training.steps import make_gradient
from mdeq_jax.vision.config import Config
from mdeq_jax.vision.experiment import VisionExperiment

STEP_LIMITS = (1, 2, 4, 6, 8, 12, 18, 30)
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)

# Metrics by name.
Row = Mapping[str, float | None]

# The adjoint equation is solved about as well as float32 allows. The history of all steps of a
# large model would take gigabytes.
_EXACT = {
    "adjoint": {"name": "exact"},
    "solver.backward": {"name": "broyden", "max_steps": 100, "tol": 1e-6, "memory": 30},
    "correction.states": 1,
}


def measure_gradient(config: RunConfig, state: TrainState) -> Row:
    """Return what a training gradient costs, and how well it agrees with the exact gradient.

    Both are gradients of the loss on the first training batch, without Jacobian regularisation and
    with the same dropout, at the state that the forward solver finds.

    Args:
      config: the config of the run.
      state: the last state of the run.

    Returns:
      "parameters"; "memory_bytes", the temporary memory of the gradient on one device, by the
      compiler's account. For a solved equilibrium also "cosine" with the exact gradient,
      "cosine_cell" for the parameters of the cell, and "reference_residual", the mean residual of
      the adjoint solves of the exact gradient.
    """
    experiment, mesh = create_experiment(config), create_mesh()
    batch = make_put(experiment, mesh)(next(experiment.train_batches()))
    unrolled = config.train.unrolled_at(int(state.step))
    compiled = _gradient(experiment, mesh, unrolled).lower(state, batch).compile()
    memory: Any = compiled.memory_analysis()
    row = {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "memory_bytes": None if memory is None else memory.temp_size_in_bytes,
    }
    own, metrics = compiled(state, batch)
    if unrolled is not None or "adjoint_steps" not in metrics:
        return row
    exact, reference = _gradient(create_experiment(override(config, _EXACT)), mesh)(state, batch)
    return row | {
        "cosine": float(cosine(own, exact)),
        "cosine_cell": float(cosine(own["cell"], exact["cell"])),
        "reference_residual": float(reference["adjoint_residual"]),
    }


def _gradient(
    experiment: Experiment, mesh: Mesh, unrolled: int | None = None
) -> jax.stages.Wrapped:
    """Return the compiled ``(state, batch) -> (gradient, metrics)``."""
    gradient = make_gradient(experiment, unrolled=unrolled)

    def mean(state: TrainState, batch: Batch) -> PyTree:
        params = lax.pcast(state.params, AXIS, to="varying")
        own = gradient(params, state.collections, batch, state.carry, Draw(state.key))
        return lax.pmean((own.grads, own.metrics), AXIS)

    specs = STATE_SPECS, PartitionSpec(AXIS)
    return jax.jit(jax.shard_map(mean, mesh=mesh, in_specs=specs, out_specs=PartitionSpec()))


def cosine(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Return ⟨a, b⟩ / (‖a‖ ‖b‖) over all leaves of two trees of one structure."""
    return jnp.divide(optax.tree.vdot(a, b), optax.tree.norm(a) * optax.tree.norm(b))


def _evaluator(config: Config, exchange: Callable[[Solve, Variables], Solve]) -> Evaluator:
    """Return the evaluator of an MDEQ with `exchange(solve, variables)` in place of its solve."""

    class Examined(VisionExperiment):
        def predict(
            self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
        ) -> Prediction:
            layer = dataclasses.replace(layer, solve=exchange(layer.solve, variables))
            return super().predict(variables, batch, layer, carry)

    return Evaluator(
        Examined(override(config, {"train.spectral_radius_iterations": 0})), create_mesh()
    )


def silence(solve: Solve, branch: int | None) -> Solve:
    """Return a layer's solve with one branch set to zero, for the cell and for the head.

    Args:
      solve: a solve whose state is a tuple with an entry per branch.
      branch: index of the branch, which is 0 in z0; None silences no branch.
    """

    def silenced(f: Callable[[State, PyTree], State], z0: State, args: PyTree) -> Solution:
        def g(z: State, args: PyTree) -> State:
            return tuple(jnp.zeros_like(h) if i == branch else h for i, h in enumerate(f(z, args)))

        return solve(g, z0, args)

    return silenced


def silenced_scales(config: Config, variables: Variables) -> dict[str, Row]:
    """Evaluate the unchanged model, then the model with each scale held at zero."""
    branches = {"none": None, **{f"scale {i}": i for i in range(config.model.num_branches)}}
    placed = replicate(variables, create_mesh())
    return {
        name: _evaluator(config, lambda solve, _, i=i: silence(solve, i))(placed, unrolled=None)
        for name, i in branches.items()
    }


def latency(config: Config, variables: Variables) -> dict[str, Row]:
    """Evaluate under fewer and more steps at the config's tolerance, then under other tolerances.

    All rows use one compiled solve, so that their times are comparable. It takes the limits from a
    collection of the variables.

    Returns:
      Metrics by row, with "batch_s", the seconds of an evaluation batch.
    """

    def limited(solve: Solve, variables: Variables) -> Solve:
        return functools.partial(solve, **variables["limits"])

    most, tol = max(STEP_LIMITS), config.solver.forward.tol
    evaluator = _evaluator(override(config, {"solver.forward.max_steps": most}), limited)

    def row(step_limit: int, tol: float) -> Row:
        limits = {"step_limit": jnp.asarray(step_limit), "tol": jnp.asarray(tol)}
        bound = replicate({**variables, "limits": limits}, create_mesh())
        started = time.perf_counter()
        metrics = evaluator(bound, unrolled=None)
        batches = math.ceil(metrics["eval/examples"] / config.data.eval_batch_size)
        return {**metrics, "batch_s": (time.perf_counter() - started) / batches}

    row(1, tol)  # compiles
    by_steps = {f"step limit {limit}": row(limit, tol) for limit in STEP_LIMITS}
    return by_steps | {f"tolerance {tol:g}": row(most, tol) for tol in TOLERANCES}
