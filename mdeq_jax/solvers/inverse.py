"""The inverse Jacobian that a Broyden solve leaves behind, as a product of rank-one factors.

B is the solve's estimate of J − I, the Jacobian of f(z) − z. With B₀⁻¹ = −I,

    −B⁻¹ = (I + l_n r_nᵀ/‖r_n‖²) ··· (I + l_1 r_1ᵀ/‖r_1‖²)

where good Broyden has r_j = s_{j−1} and l_j = s_j, the steps themselves (see `broyden.py`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import linear_call
from jaxtyping import Array, Float, Int, PyTree

from mdeq_jax.solvers.broyden import History
from mdeq_jax.solvers.common import State, inner, read_row, reciprocal, scale, select


class InverseEstimate(NamedTuple):
    """−B⁻¹ of each sample.

    Attributes:
      rows: leaves (rows, B, ...), what the factors are made of.
      left: (n,) row of each factor's l.
      right: (n,) row of each factor's r; a factor with r = 0 is the identity.
      count: (B,) number of factors of each sample, the first ones; 0 is −B⁻¹ = I.
    """

    rows: PyTree[Float[Array, "rows B ..."]]
    left: Int[Array, " n"]
    right: Int[Array, " n"]
    count: Int[Array, " B"]

    def apply(self, x: State) -> State:
        """Return −B⁻¹ x."""
        return linear_call(_product, _transposed_product, lax.stop_gradient(self), x)

    def apply_transposed(self, x: State) -> State:
        """Return −B⁻ᵀ x, in other words xᵀ(−B⁻¹)."""
        return linear_call(_transposed_product, _product, lax.stop_gradient(self), x)


# Loops of as many rounds as there are factors cannot be differentiated in reverse; `linear_call`
# is told that each is the transpose of the other.
def _product(estimate: InverseEstimate, x: State) -> State:
    def body(j: Int[Array, ""], x: State) -> State:
        return _add_factor(estimate, j, x, read=estimate.right, add=estimate.left)

    return lax.fori_loop(0, estimate.count.max(), body, x)


def _transposed_product(estimate: InverseEstimate, x: State) -> State:
    last = estimate.count.max() - 1

    def body(j: Int[Array, ""], x: State) -> State:
        return _add_factor(estimate, last - j, x, read=estimate.left, add=estimate.right)

    return lax.fori_loop(0, last + 1, body, x)


def _add_factor(
    estimate: InverseEstimate,
    j: Int[Array, ""],
    x: State,
    read: Int[Array, " n"],
    add: Int[Array, " n"],
) -> State:
    """Return x + rows[add[j]] ⟨rows[read[j]], x⟩ / ‖r_j‖² where a sample has factor j, else x."""
    r = read_row(estimate.rows, estimate.right[j])
    weight = inner(read_row(estimate.rows, read[j]), x) * reciprocal(inner(r, r))
    updated = jax.tree.map(jnp.add, x, scale(weight, read_row(estimate.rows, add[j])))
    return select(j < estimate.count, updated, x)


def inverse_from_steps(history: History, count: Int[Array, " B"]) -> InverseEstimate:
    """Return −B_n⁻¹ of each sample after n = `count` steps, from a history that never restarted."""
    rows = history.coefficients.shape[-1]
    return InverseEstimate(history.steps, jnp.arange(1, rows), jnp.arange(rows - 1), count)
