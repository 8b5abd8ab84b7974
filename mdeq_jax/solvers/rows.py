"""Rows: a fixed number of states in one array per leaf, the memory of solvers."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mdeq_jax.solvers.norms import total
from mdeq_jax.solvers.solver import State

# By default GPUs and TPUs multiply with a mantissa of 7 to 10 bits.
_PRECISION = lax.Precision.HIGHEST

# Rows whose starts are a multiple of _PAGE bytes apart share the sets of a CPU's caches, which hold
# 8 to 16 lines each: a pass over 20 such rows takes about 1.3 times as long. _APART more bytes
# between rows prevent it. On other devices they only cost memory, 192 bytes per row.
_PAGE, _APART = 4096, 3 * 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """A fixed number of states, one in each row.

    Attributes:
      leaves: one array (B, rows, size) for each leaf of a state, with the flattened leaf in each
        row. Zeros follow it where rows would otherwise start whole pages apart.
      shapes: shapes of a state's leaves, without the batch.
      structure: `PyTreeDef` of a state.
    """

    leaves: list[Float[Array, "B rows _"]]
    shapes: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def empty(cls, rows: int, g: State) -> "Rows":
        """Return room for `rows` states like g.

        Rows that are not yet written hold g: they have no meaning, but are finite, so that a weight
        of 0 leaves them out. Zeros would be one constant for the forward and the backward solve.
        XLA holds a constant from its first use to its last, so the history would take its memory
        twice.
        """
        leaves, structure = jax.tree.flatten(g)
        repeated = [jnp.repeat(_padded(x)[:, None], rows, axis=1) for x in leaves]
        return cls(repeated, tuple(x.shape[1:] for x in leaves), structure)

    def read(self, i: Int[Array, ""]) -> State:
        """Return the state in row i."""
        # Indexing with a traced number would be a gather, which copies all rows.
        flat = [lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False) for x in self.leaves]
        return self._state(flat)

    def write(self, i: Int[Array, ""], state: State) -> "Rows":
        """Return the rows with `state`, structured like the other rows, in row i."""
        leaves = [
            lax.dynamic_update_slice_in_dim(x, _flat(new)[:, None], i, axis=1)
            for x, new in zip(self.leaves, jax.tree.leaves(state), strict=True)
        ]
        return dataclasses.replace(self, leaves=leaves)

    def inner_products(self, state: State) -> Float[Array, "B rows"]:
        """Return the inner product of a state with each row, written or not, over all leaves."""

        def products(x: Array, v: Array) -> Array:
            if jax.typeof(x).sharding.spec[2] is not None:  # a contraction over shards is ambiguous
                return jnp.sum(v[:, None] * x, axis=2)
            # XLA on CPU is faster with the smaller operand first.
            return jnp.einsum("bd,brd->br", v, x, precision=_PRECISION)

        vectors = map(_padded, jax.tree.leaves(state))
        return total([products(x, v) for x, v in zip(self.leaves, vectors, strict=True)])

    def weighted_sum(self, weights: Float[Array, "B rows"]) -> State:
        """Return Σ_i weights_i row_i of each sample."""
        totals = [
            jnp.einsum("br,brd->bd", weights.astype(x.dtype), x, precision=_PRECISION)
            for x in self.leaves
        ]
        return self._state(totals)

    def _state(self, flat: list[Float[Array, "B _"]]) -> State:
        leaves = [
            x[:, : math.prod(shape)].reshape(x.shape[0], *shape)
            for x, shape in zip(flat, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)


def _flat(leaf: Float[Array, "B ..."]) -> Float[Array, "B D"]:
    return leaf.reshape(leaf.shape[0], math.prod(leaf.shape[1:]))


def _padded(leaf: Float[Array, "B ..."]) -> Float[Array, "B _"]:
    """Flatten a leaf, and add zeros where rows would start whole pages apart."""
    flat = _flat(leaf)
    size, itemsize = flat.shape[1], flat.dtype.itemsize
    more = _APART // itemsize if size * itemsize % _PAGE == 0 else 0
    return jnp.pad(flat, ((0, 0), (0, more)))
