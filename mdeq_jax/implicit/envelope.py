"""The cost at an optimum, with the gradient of the envelope theorem.

Let z, x and μ meet the first-order conditions of the minimum of ℓ(z, x, a) over x, where
z = f(z, x, a). Then the derivative of the minimal cost is that of the Lagrangian at a fixed point,

    dℓ/da = ∂ℓ/∂a + μ ∂f/∂a,

because the Lagrangian L = ℓ + ⟨μ, f − z⟩ is stationary in z, x and μ. It needs no adjoint solve.
Where x = P(y) is projected, with y = x − ∂L/∂x, it is stationary in y instead, because P removes
the direction of ∂L/∂x. The second derivative does depend on how z, x and μ move.
"""

import jax
from jaxtyping import Array, Float, PyTree

from mdeq_jax.implicit.augmented import Augmented, Cost, Map, Project, descended, projected
from mdeq_jax.solvers.captures import ClosedMap, closed_map
from mdeq_jax.solvers.norms import inner


def cost_with_envelope(
    f: Map, cost: Cost, project: Project | None, w: Augmented, args: PyTree
) -> Float[Array, " B"]:
    """Return ℓ(z, x), whose first derivative is the envelope term ∂ℓ/∂args + μ ∂f/∂args.

    Args:
      f: the map (z, x, args) -> z.
      cost: the function (z, x, args) -> ℓ, (B,).
      project: the projection P, or None.
      w: a point that meets the first-order conditions, differentiable.
      args: the arguments of f and cost. What the three functions close over is differentiated, too.
    """

    def both(w: Augmented, args: PyTree) -> tuple[Float[Array, " B"], PyTree]:
        x = projected(project, w.x)
        return cost(w.z, x, args), f(w.z, x, args)

    before = w if project is None else w._replace(x=descended(f, cost, w, args))
    return _cost(closed_map(both, w, args)[0], w, before, args)


@jax.custom_jvp
def _cost(both: ClosedMap, w: Augmented, before: Augmented, args: PyTree) -> Float[Array, " B"]:
    return both(w, args)[0]


@_cost.defjvp
def _derivative(primals, tangents):
    both, w, before, args = primals
    by_both, _, _, by_args = tangents

    def lagrangian(both: ClosedMap, args: PyTree) -> Float[Array, " B"]:
        cost, fz = both(before, args)
        return cost + inner(w.mu, fz).astype(cost.dtype)

    moved = jax.jvp(lagrangian, (both, args), (by_both, by_args))[1]
    # Through the function itself, so that an outer derivative meets this rule here, too.
    return _cost(both, w, before, args), moved
