"""The augmented map of joint inference and input optimisation, and its state.

    minimise ℓ(z, x) over x, where z = f(z, x)

The first-order conditions of this problem say that z is an equilibrium, that the multiplier μ
solves the adjoint equation, and that x is stationary. `augmented_map` is a map of (z, x, μ) whose
fixed points meet these conditions. `optimise` solves it.

Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mdeq_jax.checks import require_number, require_share
from mdeq_jax.solvers import State
from mdeq_jax.solvers.norms import inner, norm

Map = Callable[[State, State, Any], State]
Cost = Callable[[State, State, Any], Float[Array, " B"]]
Project = Callable[[State], State]


class Augmented(NamedTuple):
    """The state of the augmented map.

    Attributes:
      z: the state of the equilibrium, leaves (B, ...).
      x: the input that is optimised, leaves (B, ...).
      mu: the multiplier of the constraint z = f(z, x), with the shapes of z.
    """

    z: State
    x: State
    mu: State


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steps:
    """How far one application of the augmented map goes; its fixed points do not depend on it.

    Each is a number or a scalar array, and may be traced.

    Attributes:
      z: share of f(z, x) − z by which z moves, in (0, 1].
      mu: share of the residual of the adjoint equation by which μ moves, in (0, 1].
      x: step size of gradient descent on x, above 0. It multiplies a gradient of ℓ, so it has to
        be smaller where ℓ is larger.
    """

    z: float | Float[Array, ""] = 0.8
    mu: float | Float[Array, ""] = 0.6
    x: float | Float[Array, ""] = 0.1


def check_steps(steps: Any) -> None:
    """Raise ValueError unless these are `Steps` and their numbers in range; arrays are not read."""
    if not isinstance(steps, Steps):
        raise ValueError(f"steps has {steps!r}; it must be Steps(...), or a tuple of them.")
    for name in ("z", "mu", "x"):
        if isinstance(getattr(steps, name), jax.Array):
            continue
        if name == "x":
            require_number(steps, name, lambda step: 0 < step < float("inf"), "above 0")
        else:
            require_share(steps, name)


@dataclasses.dataclass(frozen=True)
class AtInput:
    """The map of z at a given input: (z, (x, args)) -> f(z, x, args).

    Attributes:
      f: the map (z, x, args) -> z.
    """

    f: Map

    def __call__(self, z: State, x_and_args: tuple[State, PyTree]) -> State:
        """Return f(z, x, args)."""
        return self.f(z, *x_and_args)


class Residuals(NamedTuple):
    """How far a point is from the first-order conditions; each is a norm for each sample, (B,).

    Attributes:
      equilibrium: ‖f(z, x) − z‖.
      adjoint: ‖∂ℓ/∂z + μ ∂f/∂z − μ‖.
      input: ‖x − P(x − ∂ℓ/∂x − μ ∂f/∂x)‖, where P is the projection, or the identity.
    """

    equilibrium: Float[Array, " B"]
    adjoint: Float[Array, " B"]
    input: Float[Array, " B"]


def augmented_map(
    f: Map, cost: Cost, project: Project | None = None
) -> Callable[[Augmented, tuple[PyTree, Steps]], Augmented]:
    """Return the map whose fixed points meet the first-order conditions.

        z ← z + s_z (f(z, x) − z)
        x ← P(x − s_x (∂ℓ/∂x + μ ∂f/∂x))
        μ ← μ + s_μ (∂ℓ/∂z + μ ∂f/∂z − μ)

    All three lines use the old state. One application costs one evaluation of f and ℓ and one
    pullback.

    Args:
      f: the map (z, x, args) -> z, pure, each sample of the batch by itself.
      cost: the function (z, x, args) -> ℓ, one number for each sample, (B,).
      project: the projection P onto the set of inputs that are allowed, each sample by itself; None
        allows all.

    Returns:
      The map of an `Augmented` and of ``(args, Steps)``.
    """

    def step(w: Augmented, args_and_steps: tuple[PyTree, Steps]) -> Augmented:
        args, steps = args_and_steps
        fz, by_z, by_x = _derivatives(f, cost, w, args)
        return Augmented(
            _move(w.z, steps.z, _minus(fz, w.z)),
            projected(project, _move(w.x, -steps.x, by_x)),
            _move(w.mu, steps.mu, _minus(by_z, w.mu)),
        )

    return step


def first_order_residuals(
    f: Map, cost: Cost, project: Project | None, w: Augmented, args: PyTree
) -> Residuals:
    """Return how far w is from the first-order conditions.

    Args:
      f: the map (z, x, args) -> z.
      cost: the function (z, x, args) -> ℓ, (B,).
      project: the projection P, or None.
      w: the point, leaves (B, ...).
      args: the arguments of f and cost.
    """
    fz, by_z, by_x = _derivatives(f, cost, w, args)
    moved = projected(project, _move(w.x, -1, by_x))
    return Residuals(*map(norm, (_minus(fz, w.z), _minus(by_z, w.mu), _minus(w.x, moved))))


def descended(f: Map, cost: Cost, w: Augmented, args: PyTree) -> State:
    """Return x − ∂ℓ/∂x − μ ∂f/∂x, whose projection is x at an optimum.

    Args:
      f: the map (z, x, args) -> z.
      cost: the function (z, x, args) -> ℓ, (B,).
      w: the point, leaves (B, ...).
      args: the arguments of f and cost.
    """
    return _move(w.x, -1, _derivatives(f, cost, w, args)[2])


def projected(project: Project | None, x: State) -> State:
    """Return P(x), or x if there is no projection."""
    return x if project is None else project(x)


def _derivatives(f: Map, cost: Cost, w: Augmented, args: PyTree) -> tuple[State, State, State]:
    """Return f(z, x), ∂ℓ/∂z + μ ∂f/∂z and ∂ℓ/∂x + μ ∂f/∂x."""

    def lagrangian(z: State, x: State) -> tuple[Float[Array, ""], State]:
        fz, value = f(z, x, args), cost(z, x, args)
        return (value + inner(w.mu, fz).astype(value.dtype)).sum(), fz

    (by_z, by_x), fz = jax.grad(lagrangian, argnums=(0, 1), has_aux=True)(w.z, w.x)
    return fz, by_z, by_x


def _move(x: State, step: Array | float, direction: State) -> State:
    return jax.tree.map(lambda x, d: x + jnp.asarray(step, x.dtype) * d, x, direction)


def _minus(a: State, b: State) -> State:
    return jax.tree.map(jnp.subtract, a, b)
