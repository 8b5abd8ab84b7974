"""The inverse Jacobian that a Broyden solve leaves behind, as a product of rank-one factors.

B is the solve's estimate of J − I, the Jacobian of f(z) − z. With B₀⁻¹ = −I,

    −B⁻¹ = (I + l_n r_nᵀ/‖r_n‖²) ··· (I + l_1 r_1ᵀ/‖r_1‖²)

where good Broyden has r_j = s_{j−1} and l_j = s_j, the steps themselves (see `broyden.py`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from mdeq_jax.solvers.broyden import History
from mdeq_jax.solvers.norms import inner, reciprocal, scale, select, to_working_dtype
from mdeq_jax.solvers.rows import Rows
from mdeq_jax.solvers.solver import State


class InverseEstimate(NamedTuple):
    """−B⁻¹ of each sample.

    Attributes:
      rows: what the factors are made of.
      left: (n,) row of each factor's l.
      right: (n,) row of each factor's r; a factor with r = 0 is the identity.
      count: (B,) number of factors of each sample, the first ones; 0 is −B⁻¹ = I.
    """

    rows: Rows
    left: Int[Array, " n"]
    right: Int[Array, " n"]
    count: Int[Array, " B"]

    def apply(self, x: State) -> State:
        """Return −B⁻¹ x, with structure and dtypes of x; differentiable in x alone."""
        return _as(x, _product(self, to_working_dtype(x)))

    def apply_transposed(self, x: State) -> State:
        """Return −B⁻ᵀ x, which is xᵀ(−B⁻¹), with structure and dtypes of x; differentiable in x."""
        return _as(x, _transposed_product(self, to_working_dtype(x)))


# Loops of as many rounds as there are factors cannot be differentiated in reverse. Each of the two
# products is linear, and the other one is its transpose.
@jax.custom_vjp
def _product(estimate: InverseEstimate, x: State) -> State:
    def body(j: Int[Array, ""], x: State) -> State:
        return _add_factor(estimate, j, x, read=estimate.right, add=estimate.left)

    return lax.fori_loop(0, estimate.count.max(initial=0), body, x)


@jax.custom_vjp
def _transposed_product(estimate: InverseEstimate, x: State) -> State:
    last = estimate.count.max(initial=0) - 1

    def body(j: Int[Array, ""], x: State) -> State:
        return _add_factor(estimate, last - j, x, read=estimate.left, add=estimate.right)

    return lax.fori_loop(0, last + 1, body, x)


_product.defvjp(
    lambda estimate, x: (_product(estimate, x), estimate),
    lambda estimate, y_bar: (None, _transposed_product(estimate, y_bar)),
)
_transposed_product.defvjp(
    lambda estimate, x: (_transposed_product(estimate, x), estimate),
    lambda estimate, y_bar: (None, _product(estimate, y_bar)),
)


def _as(like: State, x: State) -> State:
    return jax.tree.map(lambda x, like: x.astype(like.dtype), x, like)


def _add_factor(
    estimate: InverseEstimate,
    j: Int[Array, ""],
    x: State,
    read: Int[Array, " n"],
    add: Int[Array, " n"],
) -> State:
    """Return x + rows[add[j]] ⟨rows[read[j]], x⟩ / ‖r_j‖² where a sample has factor j, else x."""
    r = estimate.rows.read(estimate.right[j])
    weight = inner(estimate.rows.read(read[j]), x) * reciprocal(inner(r, r))
    updated = jax.tree.map(jnp.add, x, scale(weight, estimate.rows.read(add[j])))
    return select(j < estimate.count, updated, x)


def inverse_from_steps(history: History, count: Int[Array, " B"]) -> InverseEstimate:
    """Return −B_n⁻¹ of each sample after n = `count` steps, from a history that never restarted."""
    rows = history.coefficients.shape[1]
    return InverseEstimate(history.steps, jnp.arange(1, rows), jnp.arange(rows - 1), count)
