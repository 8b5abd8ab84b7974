"""Anderson acceleration over a sliding window of past iterates."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from mdeq_jax.checks import require, require_int, require_number, require_share
from mdeq_jax.solvers.norms import expanded, norm, select
from mdeq_jax.solvers.rows import Rows
from mdeq_jax.solvers.solver import Point, Solver, State


class Window(NamedTuple):
    """The last iterates, in a ring: step k writes slot k mod window.

    Attributes:
      mixed: z_i + mixing · g_i.
      residuals: g_i = f(z_i) − z_i.
      gram: (B, window, window), the inner products ⟨g_i, g_j⟩.
    """

    mixed: Rows
    residuals: Rows
    gram: Float[Array, "B window window"]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration z ← Σ_i α_i (z_i + mixing · g_i) with the best weights α.

    The weights minimise ‖Σ_i α_i g_i‖ under Σ_i α_i = 1. A sample whose small system is singular or
    not finite takes a plain step.

    Source: D. G. Anderson, "Iterative procedures for nonlinear integral equations", J. ACM 1965;
    `lib/solvers.py`, locuslab/deq.

    Attributes:
      window: number of past iterates that are mixed, at least 1.
      ridge: λ ≥ 0 added to the diagonal of the Gram matrix G.
      mixing: β in (0, 1], the share of the residual that is added to each iterate.
      ridge_mode: "relative" adds λ·diag(G), so that scaling f scales the iterates; "absolute" adds
        λ itself, as the original code does.
    """

    window: int = 6
    ridge: float = 1e-4
    mixing: float = 1.0
    ridge_mode: Literal["relative", "absolute"] = "relative"

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        require_int(self, "window", minimum=1)
        require_number(self, "ridge", lambda x: x >= 0, "of at least 0")
        require_share(self, "mixing")
        modes = ("relative", "absolute")
        require(self, "ridge_mode", self.ridge_mode in modes, "'relative' or 'absolute'")

    def init(self, point: Point) -> Window:
        """Return an empty window."""
        empty = Rows.empty(self.window, point.g)
        gram = expanded(jnp.zeros_like(norm(point.g)), self.window, self.window)
        return Window(empty, empty, gram)

    def propose(self, memory: Window, point: Point) -> tuple[State, Window]:
        """Return the best mixture of the window, the current iterate included."""
        z, g, k, *_ = point
        slot = k % self.window
        plain = jax.tree.map(lambda z, g: z + self.mixing * g, z, g)
        mixed = memory.mixed.write(slot, plain)
        residuals = memory.residuals.write(slot, g)
        products = residuals.inner_products(g)
        put = lax.dynamic_update_index_in_dim
        gram = put(put(memory.gram, products, slot, axis=1), products, slot, axis=2)
        alpha = self._mixture(gram, filled=jnp.arange(self.window, dtype=k.dtype) <= k)
        usable = jnp.isfinite(alpha).all(axis=-1)
        mixture = mixed.weighted_sum(alpha)
        return select(usable, mixture, plain), Window(mixed, residuals, gram)

    def _mixture(
        self, gram: Float[Array, "B window window"], filled: Bool[Array, " window"]
    ) -> Float[Array, "B window"]:
        """α = H⁻¹1 / (1ᵀH⁻¹1) with H the Gram matrix plus its ridge, over the filled slots."""
        diagonal = jnp.diagonal(gram, axis1=-2, axis2=-1)
        ridge = self.ridge * (diagonal if self.ridge_mode == "relative" else 1)
        # Empty slots become unit equations with right-hand side 0, so their weight is 0.
        filled = filled[None]
        extra = jnp.where(filled, ridge * jnp.ones_like(diagonal), 1)
        system = jnp.where(filled[..., None] & filled[:, None], gram, 0)
        system += jnp.eye(self.window, dtype=gram.dtype)[None] * extra[..., None]
        right = jnp.where(filled, jnp.ones_like(diagonal), 0)
        alpha = jnp.linalg.solve(system, right[..., None])[..., 0]
        return alpha / alpha.sum(axis=-1, keepdims=True)
