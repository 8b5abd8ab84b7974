"""The cost at an optimum, with the gradient of the envelope theorem.

Let z, x and μ meet the first-order conditions of the minimum of ℓ(z, x, a) over x, where
z = f(z, x, a). Then the derivative of the minimal cost is that of the Lagrangian at a fixed point,

    dℓ/da = ∂ℓ/∂a + μ ∂f/∂a,

because the Lagrangian ℓ + ⟨μ, f − z⟩ is stationary in z, x and μ. It needs no adjoint solve. The
second derivative does depend on how z, x and μ move.
"""

import jax
from jaxtyping import Array, Float, PyTree

from mdeq_jax.implicit.augmented import Augmented, Cost, Map
from mdeq_jax.solvers.captures import ClosedMap, closed_map
from mdeq_jax.solvers.norms import inner


def cost_with_envelope(f: Map, cost: Cost, w: Augmented, args: PyTree) -> Float[Array, " B"]:
    """Return ℓ(z, x), whose first derivative is the envelope term ∂ℓ/∂args + μ ∂f/∂args.

    Args:
      f: the map (z, x, args) -> z.
      cost: the function (z, x, args) -> ℓ, (B,).
      w: a point that meets the first-order conditions, differentiable.
      args: the arguments of f and cost. What the two close over is differentiated, too.
    """
    both = lambda w, args: (cost(w.z, w.x, args), f(w.z, w.x, args))  # noqa: E731
    return _cost(closed_map(both, w, args)[0], w, args)


@jax.custom_vjp
def _cost(both: ClosedMap, w: Augmented, args: PyTree) -> Float[Array, " B"]:
    return both(w, args)[0]


def _forward(both: ClosedMap, w: Augmented, args: PyTree):
    # Through the custom_vjp itself, so that an outer derivative meets its rule here, too.
    return _cost(both, w, args), (both, w, args)


def _backward(residuals, by_cost):
    both, w, args = residuals

    def lagrangian(both: ClosedMap, args: PyTree) -> Float[Array, " B"]:
        cost, fz = both(w, args)
        return cost + inner(w.mu, fz)

    by_both, by_args = jax.vjp(lagrangian, both, args)[1](by_cost)
    return by_both, None, by_args


_cost.defvjp(_forward, _backward)
