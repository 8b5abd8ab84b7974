"""`vmap` of a solve: one solve of a larger batch.

JAX's own rule for a `while_loop` would select between all carries, histories included, at every
step, and would write a row of the history by a scatter. Samples are independent, so V batches of B
samples are solved as one batch of V·B samples instead.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jaxtyping import PyTree

from mdeq_jax.solvers.solver import SolverResult, State


def solve_folded(
    solve: Callable[..., SolverResult],
    maps: tuple[Callable[[PyTree, PyTree], PyTree], ...],
    z0: State,
    args: PyTree,
    *options: Any,
) -> SolverResult:
    """Return ``solve(maps, z0, args, *options)``, with axes of `vmap` folded into the batch.

    Args:
      solve: a function that solves each sample by itself.
      maps: functions (z, args) -> tree that the solve evaluates. Every leaf of z and of the tree
        has the batch as its first axis. They have no captured arrays and no collectives.
      z0: where the solve starts, leaves (B, ...).
      args: the arguments of f.
      options: further arguments, such as the tolerance: each is None, a scalar or (B,).
    """

    def plain(z0: State, args: PyTree, *options: Any) -> SolverResult:
        return solve(maps, z0, args, *options)

    operands = (z0, args, *options)
    if not any(isinstance(x, Tracer) for x in jax.tree.leaves(operands)):
        return plain(*operands)  # no transformation is under way
    folded = custom_vmap(plain)

    @folded.def_vmap
    def rule(size: int, batched: list, z0: State, args: PyTree, *options: Any) -> Any:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)
        z0 = jax.tree.map(lambda x, axis: _with_axis(x, axis, size), z0, axes[0])
        batches, samples = jax.tree.leaves(z0)[0].shape[:2]
        fold = Fold(batches, samples, _batch_is_sharded(z0))
        of_all = tuple(fold.of_all(jax.vmap(each, in_axes=(0, axes[1]))) for each in maps)

        options = jax.tree.map(
            lambda x, axis: fold.of_each_sample(jnp.asarray(x), axis), options, tuple(axes[2:])
        )
        result = solve_folded(solve, of_all, fold.merge(z0), args, *options)
        # The samples are the second axis of the trace and of the sampled states.
        trace, states = fold.split((result.trace, result.states), axis=1)
        result = fold.split(result._replace(trace=None, states=None))
        result = result._replace(trace=trace, states=states)
        return result, jax.tree.map(lambda _: True, result)

    # Derivatives see the plain loop.
    differentiable = jax.custom_jvp(lambda *operands: folded(*operands))
    differentiable.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))
    return differentiable(*operands)


@dataclasses.dataclass(frozen=True)
class Fold:
    """How V batches of B samples become one batch.

    Attributes:
      batches: V, the number of batches.
      samples: B, the number of samples of each batch.
      samples_first: whether the merged axis has all first samples first. Only the first of two
        merged axes may be split over devices, so a sharded axis of samples must come first.
    """

    batches: int
    samples: int
    samples_first: bool

    def merge(self, tree: PyTree) -> PyTree:
        """Merge the axes (V, B) of every leaf."""

        def merge(x: jax.Array) -> jax.Array:
            x = jnp.swapaxes(x, 0, 1) if self.samples_first else x
            return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

        return jax.tree.map(merge, tree)

    def split(self, tree: PyTree, axis: int = 0) -> PyTree:
        """Split the merged axis of every leaf again, and move the axis of batches to the front."""
        shape = self.batches, self.samples
        order = shape[::-1] if self.samples_first else shape

        def split(x: jax.Array) -> jax.Array:
            x = x.reshape(*x.shape[:axis], *order, *x.shape[axis + 1 :])
            return jnp.moveaxis(x, axis + 1 if self.samples_first else axis, 0)

        return jax.tree.map(split, tree)

    def of_all(self, mapped: Callable[[PyTree, PyTree], PyTree]) -> Callable[..., PyTree]:
        """Return a function of V batches as one of the merged batch.

        Args:
          mapped: the function (z, args) -> tree, with leaves (V, B, ...).
        """
        return lambda z, args: self.merge(mapped(self.split(z), args))

    def of_each_sample(self, x: jax.Array, axis: int | None) -> jax.Array:
        """Return an option as one value per sample, (V·B,).

        Args:
          x: one value for all samples, for each batch, or for each sample.
          axis: 0 if x has an axis of batches, otherwise None.
        """
        x = _with_axis(x, axis, self.batches)
        x = jnp.broadcast_to(x.reshape(self.batches, -1), (self.batches, self.samples))
        return self.merge(x)


def _batch_is_sharded(z: State) -> bool:
    """Return whether the second axis of a leaf is split over an explicit axis of the mesh."""
    return any(jax.typeof(x).sharding.spec[1] is not None for x in jax.tree.leaves(z))


def _with_axis(x: jax.Array, axis: int | None, size: int) -> jax.Array:
    return x if axis == 0 else jnp.broadcast_to(x[None], (size, *x.shape))
