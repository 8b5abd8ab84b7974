"""Good Broyden's method from the history of its steps alone.

With B₀⁻¹ = −I and full steps s_n = −B_n⁻¹ g_n, the update of the inverse needs no pair (u, v) of
its own, since u is the next step itself (C. T. Kelley, "Iterative Methods for Linear and Nonlinear
Equations", SIAM 1995, section 7.3):

    −B_n⁻¹ = (I + s_n s_{n−1}ᵀ/‖s_{n−1}‖²) ··· (I + s_1 s_0ᵀ/‖s_0‖²)

so that v_0 = g, v_{j+1} = v_j + c_j s_{j+1} with c_j = s_jᵀ v_j / ‖s_j‖², and the new step is
v_{n−1} / (1 − c_{n−1}). The coefficients obey a lower triangular system in the products s_jᵀg and
s_jᵀs_i; its inverse, called `coefficients` below, gains one row a step. The new step is a sum of g
and earlier steps, and so are its products with them, as long as rounding allows. A step therefore
costs one pass over the history for the products with g and one for the sum, and the history is half
of what the pairs (u, v) of `lib/solvers.py` (locuslab/deq) take.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mdeq_jax.solvers.common import Solver, State, inner, reciprocal, require_int, scale
from mdeq_jax.solvers.rows import Rows

# Products that follow from others are taken anew where the bound of their error is past this many
# roundings: in float32, where much cancels in a step, an error of some per cent loses convergence.
_MOST_ROUNDINGS = 1e3


class History(NamedTuple):
    """The steps of a solve.

    Attributes:
      steps: row n is step s_n.
      coefficients: (B, rows, rows), lower triangular; maps the products s_jᵀg to c_j.
      gram: (B, rows, rows), the products s_jᵀs_i.
      errors: (B, rows), entry n bounds the error of s_jᵀs_n, j < n, by ε ‖s_j‖ errors_n, where ε is
        the relative error of one inner product; at least ‖s_n‖.
    """

    steps: Rows
    coefficients: Float[Array, "B rows rows"]
    gram: Float[Array, "B rows rows"]
    errors: Float[Array, "B rows"]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Broyden(Solver):
    """Good Broyden's method, B₀ = −I, full steps, each sample with its own inverse Jacobian.

    Attributes:
      memory: rows of history, at least 1; when they are full the method restarts with a plain
        step. None keeps every step: `max_steps` rows. More rows than steps stay unused.
    """

    memory: int | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        if self.memory is not None:
            require_int(self, "memory", minimum=1)

    def init(self, z: State, g: State) -> History:
        """Return an empty history."""
        rows, squared = self.memory or self.max_steps, inner(g, g)
        square = jnp.zeros((len(squared), rows, rows), squared.dtype)
        return History(Rows.empty(rows, g), square, square, square[..., 0])

    def propose(
        self, memory: History, z: State, g: State, k: Int[Array, ""]
    ) -> tuple[State, History]:
        """Return the iterate after a full quasi-Newton step, and the history with that step."""
        rows = memory.coefficients.shape[-1]
        n = k % rows
        with_g = _products(memory.steps, g, count=n)
        c = _matvec(memory.coefficients, with_g)
        weights = jnp.where(jnp.arange(rows) < n, jnp.pad(c[:, :-1], ((0, 0), (1, 0))), 0)
        direction = jax.tree.map(jnp.add, g, memory.steps.weighted_sum(weights))
        length = reciprocal(1 - jnp.where(n > 0, c[:, n - 1], 0))
        step = scale(length, direction)
        with_step = length[:, None] * (with_g + _matvec(memory.gram, weights))
        drift = jnp.abs(length) * jnp.sum(jnp.abs(weights) * memory.errors, axis=1)
        history = _append_step(memory, n, step, with_step, drift)
        return jax.tree.map(jnp.add, z, step), history


def _append_step(
    memory: History,
    n: Int[Array, ""],
    step: State,
    with_step: Float[Array, "B rows"],
    drift: Float[Array, " B"],
) -> History:
    """Write step n = λ (g + Σ w_i s_i), given its products with the steps before it.

    Their error is bounded through that of s_jᵀg, with ‖g‖ ≤ ‖s_n/λ‖ + Σ |w_i| ‖s_i‖, and those of
    s_jᵀs_i; `drift` is |λ| Σ |w_i| errors_i.
    """
    steps = memory.steps.write(n, step)
    squared = inner(step, step)
    with_step = jnp.where(jnp.arange(with_step.shape[-1]) < n, with_step, 0).at[:, n].set(squared)
    least = jnp.sqrt(squared)
    error = least + 2 * drift
    lost = error > _MOST_ROUNDINGS * least
    with_step = lax.cond(
        lost.any(),
        lambda: jnp.where(lost[:, None], _products(steps, step, count=n + 1), with_step),
        lambda: with_step,
    )
    return History(
        steps=steps,
        coefficients=_append_row(memory.coefficients, n, with_step),
        gram=memory.gram.at[:, n].set(with_step).at[:, :, n].set(with_step),
        errors=memory.errors.at[:, n].set(jnp.where(lost, least, error)),
    )


def _products(steps: Rows, vector: State, count: Int[Array, ""]) -> Float[Array, "B rows"]:
    """Products with the first rows, 0 for the others, which hold finite numbers of no meaning."""
    products = steps.inner_products(vector)
    return jnp.where(jnp.arange(products.shape[-1]) < count, products, 0)


def _matvec(matrix: Float[Array, "B n m"], vector: Float[Array, "B m"]) -> Float[Array, "B n"]:
    return jnp.einsum("bij,bj->bi", matrix, vector, precision=lax.Precision.HIGHEST)


def _append_row(
    coefficients: Float[Array, "B rows rows"], row: Int[Array, ""], gram: Float[Array, "B rows"]
) -> Float[Array, "B rows rows"]:
    """Append row j, c_j = (s_jᵀg + Σ_{i<j} c_i s_jᵀs_{i+1}) / ‖s_j‖², given gram_i = s_jᵀs_i.

    A step of length 0 has a row of zeros (0/0 counts as 0). Rows further down, left from before a
    restart, meet only the zeros that gram has there.
    """
    rows = gram.shape[-1]
    shifted = jnp.pad(gram[:, 1:], ((0, 0), (0, 1)))
    new = _matvec(coefficients.mT, shifted) + (jnp.arange(rows) == row)
    squared = gram[:, row, None]
    new = jnp.where(squared == 0, 0, new / jnp.where(squared == 0, 1, squared))
    return coefficients.at[:, row].set(new)
