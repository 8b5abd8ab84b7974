"""`vmap` of a solve: one solve of a larger batch.

JAX's own rule for a `while_loop` would select between all carries, the history among them, at every
step, and turn the row that is written into a scatter. Samples are solved by themselves, so that a
batch of V batches of B samples is one batch of V·B samples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import PyTree

from mdeq_jax.solvers.common import Solver, SolverResult, State


def foldable(
    solve: Callable[..., SolverResult], f: Callable[[State, PyTree], State], solver: Solver
) -> Callable[..., SolverResult]:
    """Return ``found(z0, args, tol, step_limit)``, which folds the axes of `vmap` into the batch.

    Args:
      solve: ``solve(f, z0, args, tol, step_limit)``; the last two are None, scalars or (B,).
      f: the map, without captures.
      solver: with ``stop_scope="batch"`` nothing is folded, since each batch stops as a whole.
    """

    def found(z0: State, args: PyTree, tol: Any, step_limit: Any) -> SolverResult:
        return solve(f, z0, args, tol, step_limit)

    if solver.stop_scope == "batch":
        return found
    folded = custom_vmap(found)

    @folded.def_vmap
    def rule(size: int, batched: list, z0: State, args: PyTree, *limits: Any) -> Any:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)
        z0 = jax.tree.map(lambda x, axis: _with_axis(x, axis, size), z0, axes[0])
        shape = jax.tree.leaves(z0)[0].shape[:2]
        mapped = jax.vmap(f, in_axes=(0, axes[1]))

        def f_of_all(z: State, args: PyTree) -> State:
            return _fold(mapped(_unfold(z, shape), args))

        limits = jax.tree.map(
            lambda x, axis: _per_sample(jnp.asarray(x), axis, shape), limits, tuple(axes[2:])
        )
        result = foldable(solve, f_of_all, solver)(_fold(z0), args, *limits)
        # The samples are the second axis of the trace and of the sampled states.
        states = None if result.states is None else _unfold(result.states, shape, axis=1)
        rest = result._replace(trace=None, states=None)
        result = _unfold(rest, shape)._replace(
            trace=_unfold(result.trace, shape, axis=1), states=states
        )
        return result, jax.tree.map(lambda _: True, result)

    return folded


def _with_axis(x: jax.Array, axis: int | None, size: int) -> jax.Array:
    return x if axis == 0 else jnp.broadcast_to(x[None], (size, *x.shape))


def _per_sample(x: jax.Array, axis: int | None, shape: tuple[int, int]) -> jax.Array:
    """Return a limit of all samples, of each batch, or of each sample, per sample: (V·B,)."""
    x = _with_axis(x, axis, shape[0])
    return jnp.broadcast_to(x.reshape(shape[0], -1), shape).reshape(-1)


def _fold(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)


def _unfold(tree: PyTree, shape: tuple[int, int], axis: int = 0) -> PyTree:
    """Split the samples into V batches of B, and move the V in front."""

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:axis], *shape, *x.shape[axis + 1 :]), axis, 0)

    return jax.tree.map(split, tree)
