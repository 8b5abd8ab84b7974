"""Norms, products and selections of states, one number per sample.

Inner products reduce over all axes except the batch and over all leaves, so that every number has
the shape (B,).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from mdeq_jax.solvers.solver import State


def to_working_dtype(tree: State) -> State:
    """Cast 16-bit leaves to float32; wider leaves stay as they are."""

    def widen(x: Array) -> Array:
        return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x

    return jax.tree.map(widen, tree)


def cast_like(tree: State, like: State) -> State:
    """Cast each leaf to the dtype of the leaf of `like` in the same place."""
    return jax.tree.map(lambda x, like: x.astype(like.dtype), tree, like)


def in_working_dtype(
    f: Callable[[State, Any], State], args: PyTree, like: State
) -> Callable[[State], State]:
    """Return z ↦ f(z, args) on states in the working dtype, for an f on states like `like`."""
    return lambda z: to_working_dtype(f(cast_like(z, like), args))


def total(terms: list[Float[Array, "B ..."]]) -> Float[Array, "B ..."]:
    """Return the sum of the contributions of a state's leaves, in the widest of their dtypes."""
    return functools.reduce(jnp.add, in_widest_dtype(terms))


def in_widest_dtype(terms: list[Float[Array, "B ..."]]) -> list[Float[Array, "B ..."]]:
    """Cast arrays of mixed dtypes to the widest of them."""
    widest = max((x.dtype for x in terms), key=lambda dtype: jnp.finfo(dtype).bits)
    return [x.astype(widest) for x in terms]


def per_sample(values: Float[Array, " B"], leaf: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Reshape one number per sample so that it broadcasts against a leaf."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - 1))


def expanded(values: Float[Array, " B"], *shape: int) -> Float[Array, "B ..."]:
    """Repeat one number per sample to the shape (B, *shape)."""
    last = values.reshape(values.shape + (1,) * len(shape))
    return jnp.broadcast_to(last, values.shape + shape)


def scale(values: Float[Array, " B"], tree: State) -> State:
    """Multiply each sample by its own number, which may be out of the range of a 16-bit leaf."""

    def times(x: Array) -> Array:
        wide, factor = in_widest_dtype([to_working_dtype(x), per_sample(values, x)])
        return (factor * wide).astype(x.dtype)

    return jax.tree.map(times, tree)


def select(chosen: Bool[Array, " B"], yes: State, no: State) -> State:
    """Return each sample of `yes` where chosen, and of `no` elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(per_sample(chosen, a), a, b), yes, no)


def inner(a: State, b: State) -> Float[Array, " B"]:
    """Return the inner product ⟨a, b⟩ of each sample, over all leaves, at least in float32."""
    terms = jax.tree.map(
        lambda x, y: jnp.sum(x * y, axis=tuple(range(1, x.ndim))),
        to_working_dtype(a),
        to_working_dtype(b),
    )
    return total(jax.tree.leaves(terms))


def norm(tree: State) -> Float[Array, " B"]:
    """Return the Euclidean norm of each sample, over all leaves, at least in float32.

    Squares neither overflow nor underflow, because the norm is taken in a `unit_of` the sample.
    """
    unit = lax.stop_gradient(unit_of(tree))
    scaled = in_unit(tree, unit)
    return unit * jnp.sqrt(inner(scaled, scaled))


def unit_of(*trees: State) -> Float[Array, " B"]:
    """Return a power of two within a factor of two of each sample's largest entry in all trees.

    It is 1 where the largest entry is 0 or not finite. Its reciprocal is finite.
    """
    largest = functools.reduce(jnp.maximum, map(_largest_entry, trees))
    limits = jnp.finfo(largest.dtype)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1))
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, limits.minexp, -limits.minexp))


def in_unit(tree: State, unit: Float[Array, " B"]) -> State:
    """Divide each sample by its unit, in the dtype of the unit."""
    return jax.tree.map(lambda x: x.astype(unit.dtype) * per_sample(1 / unit, x), tree)


def _largest_entry(tree: State) -> Float[Array, " B"]:
    terms = [
        jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), initial=0)
        for x in jax.tree.leaves(to_working_dtype(tree))
    ]
    return functools.reduce(jnp.maximum, in_widest_dtype(terms))


def quotient(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return a / b, and 0 where b is 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def reciprocal(x: Float[Array, " B"]) -> Float[Array, " B"]:
    """Return 1/x, and 1 where x is 0, which leaves out an update that would divide by it."""
    return 1 / jnp.where(x == 0, 1, x)


def vary_together(tree: PyTree, like: PyTree) -> PyTree:
    """Inside `shard_map`, mark `tree` as varying over every mesh axis that `like` varies over.

    A `while_loop` needs an initial carry of the type that its body returns. A select between equals
    takes on the type of its predicate; the compiler removes it.
    """
    predicate = functools.reduce(jnp.logical_or, ((x != x).any() for x in jax.tree.leaves(like)))
    return jax.tree.map(lambda x: jnp.where(predicate, x, x), tree)
