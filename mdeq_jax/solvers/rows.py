"""Rows: a fixed number of states kept together, which solvers remember the past in."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from mdeq_jax.solvers.common import State

Rows = PyTree[Float[Array, "B rows ..."]]

# Not the 10 bits of mantissa that GPUs and TPUs would multiply by.
_PRECISION = lax.Precision.HIGHEST


def empty_rows(rows: int, g: State) -> Rows:
    """Return room for a number of states; what it holds until then has no meaning, but is finite.

    It holds g, not zeros. Zeros would be one constant for the forward and the backward solve, and
    XLA keeps a constant from its first use to its last: the history would take its memory twice.
    """
    return jax.tree.map(lambda x: jnp.repeat(x[:, None], rows, axis=1), g)


# By dynamic slices: gathers and scatters, which is what indexing with a traced number makes, copy
# all rows.
def read_row(rows: Rows, i: Int[Array, ""]) -> State:
    """Return row i of every leaf."""
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False), rows)


def write_row(rows: Rows, i: Int[Array, ""], row: State) -> Rows:
    """Return the rows with row i of every leaf replaced."""
    return jax.tree.map(lambda x, r: lax.dynamic_update_index_in_dim(x, r, i, 1), rows, row)


# Both read every row, also those not written yet: a matrix product over all of them takes less time
# than a loop over those that count.
def inner_products(rows: Rows, vector: State) -> Float[Array, "B rows"]:
    """Inner product of a state with each row, over all leaves."""

    def of_leaf(rows: Array, v: Array) -> Array:
        # In this order, which XLA on CPU takes three quarters of the time for.
        return jnp.einsum("bd,brd->br", _flat(v, 1), _flat(rows, 2), precision=_PRECISION)

    terms = jax.tree.map(of_leaf, rows, vector)
    return functools.reduce(jnp.add, jax.tree.leaves(terms))


def weighted_sum(rows: Rows, weights: Float[Array, "B rows"]) -> State:
    """Σ_i weights_i row_i of each sample."""

    def of_leaf(rows: Array) -> Array:
        w = weights.astype(rows.dtype)
        total = jnp.einsum("brd,br->bd", _flat(rows, 2), w, precision=_PRECISION)
        return total.reshape(rows.shape[0], *rows.shape[2:])

    return jax.tree.map(of_leaf, rows)


def _flat(x: Array, kept: int) -> Array:
    """Merge all axes but the first few into one."""
    return x.reshape(*x.shape[:kept], math.prod(x.shape[kept:]))
