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
from mdeq_jax.solvers.norms import cast_like, inner, reciprocal, scale, select, to_working_dtype
from mdeq_jax.solvers.rows import Rows
from mdeq_jax.solvers.solver import State


class InverseEstimate(NamedTuple):
    """−B⁻¹ of each sample.

    Attributes:
      rows: the states that the factors consist of.
      left: (n,), the row of each factor's l.
      right: (n,), the row of each factor's r; a factor with r = 0 is the identity.
      count: (B,), the number of factors that a sample has, counted from the first; with 0 factors
        −B⁻¹ = I.
    """

    rows: Rows
    left: Int[Array, " n"]
    right: Int[Array, " n"]
    count: Int[Array, " B"]

    def apply(self, x: State) -> State:
        """Return −B⁻¹ x, with structure and dtypes of x; differentiable in x only."""
        return cast_like(_product(self, to_working_dtype(x)), x)

    def apply_transposed(self, x: State) -> State:
        """Return xᵀ(−B⁻¹), with structure and dtypes of x; differentiable in x only."""
        return cast_like(_transposed_product(self, to_working_dtype(x)), x)


# A loop whose number of rounds is traced cannot be differentiated in reverse mode. Each of the two
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


def _add_factor(
    estimate: InverseEstimate,
    j: Int[Array, ""],
    x: State,
    read: Int[Array, " n"],
    add: Int[Array, " n"],
) -> State:
    """Return x + rows[add[j]] ⟨rows[read[j]], x⟩ / ‖r_j‖² for samples that have factor j."""
    r = estimate.rows.read(estimate.right[j])
    weight = inner(estimate.rows.read(read[j]), x) * reciprocal(inner(r, r))
    updated = jax.tree.map(jnp.add, x, scale(weight, estimate.rows.read(add[j])))
    return select(j < estimate.count, updated, x)


def inverse_from_steps(history: History, count: Int[Array, " B"]) -> InverseEstimate:
    """Return −B⁻¹ of each sample after `count` steps, from a history that never restarted."""
    rows = history.coefficients.shape[1]
    return InverseEstimate(history.steps, jnp.arange(1, rows), jnp.arange(rows - 1), count)
