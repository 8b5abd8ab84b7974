"""Good Broyden's method from pairs (u, v); a new pair can overwrite the oldest.

The inverse Jacobian is a sum, B⁻¹ = −I + Σ_i u_i v_iᵀ. A step s = −B⁻¹g and the change y of the
residual that it brings add the pair

    vᵀ = sᵀB⁻¹,  u = (s − B⁻¹y) / (vᵀy)

so that B⁻¹y = s. Any term of a sum can be dropped; a factor of the product in `broyden.py` cannot.
A pair takes twice the memory of a row in `broyden.py`. Source: `broyden` in `lib/solvers.py`,
locuslab/deq.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mdeq_jax.solvers.norms import inner, quotient, scale
from mdeq_jax.solvers.rows import Rows
from mdeq_jax.solvers.solver import State


class Pairs(NamedTuple):
    """The last pairs of a solve, in a ring: the pair that step k completes is in slot k mod rows.

    Attributes:
      u: the states u_i.
      v: the states v_i.
      step: the last step.
      residual: the residual before that step.
    """

    u: Rows
    v: Rows
    step: State
    residual: State

    @classmethod
    def empty(cls, rows: int, g: State) -> "Pairs":
        """Return room for `rows` pairs of states like g."""
        empty = Rows.empty(rows, g)
        return cls(empty, empty, jax.tree.map(jnp.zeros_like, g), g)

    def next_step(self, g: State, k: Int[Array, ""]) -> tuple[State, "Pairs"]:
        """Return step k, s = −B⁻¹g, and the pairs, updated with the previous step."""
        rows = self.u.leaves[0].shape[1]
        filled = jnp.arange(rows, dtype=k.dtype) < k
        pairs = lax.cond(k > 0, lambda: self._learn(g, k - 1, rows), lambda: self)
        step = jax.tree.map(jnp.negative, _product(pairs.u, pairs.v, g, filled))
        return step, pairs._replace(step=step, residual=g)

    def _learn(self, g: State, k: Int[Array, ""], rows: int) -> "Pairs":
        """Return the pairs, the oldest overwritten with the pair that step k completes."""
        filled = jnp.arange(rows, dtype=k.dtype) < k
        y = jax.tree.map(jnp.subtract, g, self.residual)
        v = _product(self.v, self.u, self.step, filled)
        gap = jax.tree.map(jnp.subtract, self.step, _product(self.u, self.v, y, filled))
        curvature = inner(v, y)
        u = scale(quotient(jnp.ones_like(curvature), curvature), gap)
        slot = k % rows
        return self._replace(u=self.u.write(slot, u), v=self.v.write(slot, v))


def _product(left: Rows, right: Rows, x: State, filled: Bool[Array, " rows"]) -> State:
    """Return −x + Σ_i left_i (right_iᵀx) over the filled rows."""
    weights: Float[Array, "B rows"] = jnp.where(filled[None], right.inner_products(x), 0)
    return jax.tree.map(jnp.subtract, left.weighted_sum(weights), x)
