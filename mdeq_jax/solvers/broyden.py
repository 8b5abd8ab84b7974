"""Good Broyden's method from the history of its steps alone.

With B₀⁻¹ = −I and full steps s_n = −B_n⁻¹ g_n, the update of the inverse needs no pair (u, v) of
its own, since u is the next step itself (C. T. Kelley, "Iterative Methods for Linear and Nonlinear
Equations", SIAM 1995, section 7.3):

    −B_n⁻¹ = (I + s_n s_{n−1}ᵀ/‖s_{n−1}‖²) ··· (I + s_1 s_0ᵀ/‖s_0‖²)

so that v_0 = g, v_{j+1} = v_j + c_j s_{j+1} with c_j = s_jᵀ v_j / ‖s_j‖², and the new step is
v_{n−1} / (1 − c_{n−1}). The coefficients obey a lower triangular system in the products s_jᵀg and
s_jᵀs_i; its inverse, called `coefficients` below, gains one row a step. A step therefore costs two
passes over the history for the products and one for the sum, and the history is half of what the
pairs (u, v) of `lib/solvers.py` (locuslab/deq) take.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mdeq_jax.solvers.common import Solver, State, inner, reciprocal, require_int, scale
from mdeq_jax.solvers.rows import (
    Rows,
    empty_rows,
    inner_products,
    read_row,
    weighted_sum,
    write_row,
)


class History(NamedTuple):
    """The steps of a solve.

    Attributes:
      steps: leaves (B, rows, ...), row n is step s_n.
      coefficients: (B, rows, rows), lower triangular; maps the products s_jᵀg to c_j.
    """

    steps: Rows
    coefficients: Float[Array, "B rows rows"]


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
        coefficients = jnp.zeros((len(squared), rows, rows), squared.dtype)
        return History(empty_rows(rows, g), coefficients)

    def propose(
        self, memory: History, z: State, g: State, k: Int[Array, ""]
    ) -> tuple[State, History]:
        """Return the iterate after a full quasi-Newton step, and the history with that step."""
        rows = memory.coefficients.shape[-1]
        n = k % rows
        last = read_row(memory.steps, n - 1)  # before the first step, any row: it weighs nothing
        written = jnp.arange(rows) < n  # the others hold finite numbers that must not count
        with_g = jnp.where(written, inner_products(memory.steps, g), 0)
        # From the products of g and those of other steps they would follow without a pass over the
        # history, but in float32 that loses convergence where a step is much longer than g.
        with_last = jnp.where(written, inner_products(memory.steps, last), 0)
        coefficients = _append_row(memory.coefficients, n - 1, with_last)
        c = jnp.einsum("bij,bj->bi", coefficients, with_g, precision=lax.Precision.HIGHEST)
        c_last = jnp.where(n > 0, c[:, n - 1], 0)
        weights = jnp.where(written, jnp.pad(c[:, :-1], ((0, 0), (1, 0))), 0)
        direction = jax.tree.map(jnp.add, g, weighted_sum(memory.steps, weights))
        step = scale(reciprocal(1 - c_last), direction)
        history = History(write_row(memory.steps, n, step), coefficients)
        return jax.tree.map(jnp.add, z, step), history


def _append_row(
    coefficients: Float[Array, "B rows rows"], row: Int[Array, ""], gram: Float[Array, "B rows"]
) -> Float[Array, "B rows rows"]:
    """Append row j, c_j = (s_jᵀg + Σ_{i<j} c_i s_jᵀs_{i+1}) / ‖s_j‖², given gram_i = s_jᵀs_i.

    A step of length 0 has a row of zeros (0/0 counts as 0). Before the first step, row −1 lands on
    row 0, which the first step then overwrites. Rows further down, left from before a restart, meet
    only the zeros that gram has there.
    """
    rows = gram.shape[-1]
    shifted = jnp.pad(gram[:, 1:], ((0, 0), (0, 1)))
    new = jnp.einsum("bi,bij->bj", shifted, coefficients, precision=lax.Precision.HIGHEST)
    new = new + (jnp.arange(rows) == row)
    squared = gram[:, row, None]
    new = jnp.where(squared == 0, 0, new / jnp.where(squared == 0, 1, squared))
    return coefficients.at[:, jnp.maximum(row, 0)].set(new)
