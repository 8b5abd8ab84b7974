"""Joint inference and input optimisation: the best input of an equilibrium, by one fixed point.

    minimise ℓ(z, x) over x, where z = f(z, x)

The first-order conditions of this problem say that z is an equilibrium, that the multiplier μ
solves the adjoint equation, and that x is stationary. `augmented_map` is a map of (z, x, μ) whose
fixed points meet these conditions. `optimise` solves it as it solves any other equilibrium.

Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from mdeq_jax.implicit.deq import DEQ, Solution
from mdeq_jax.solvers import Anderson, SolverResult, State
from mdeq_jax.solvers.norms import inner, norm
from mdeq_jax.solvers.solver import as_state, check_map

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
    """How far one application of the augmented map goes; the fixed points do not depend on it.

    Attributes:
      z: share of f(z, x) − z by which z moves, in (0, 1].
      mu: share of the residual of the adjoint equation by which μ moves, in (0, 1].
      x: step size of gradient descent on x, above 0.
    """

    z: float = 0.8
    mu: float = 0.6
    x: float = 0.1


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Optimum:
    """What `optimise` returns.

    Attributes:
      z: the equilibrium at x.
      x: the input with the lowest cost, a stationary point of it.
      mu: the multiplier. It is the u that `Exact` finds for the loss ℓ at (z, x).
      cost: ℓ(z, x), (B,). Its gradient is ∂ℓ/∂args + μ ∂f/∂args, by the envelope theorem, which
        needs no adjoint solve. The gradient of z, x and μ is the adjoint's.
      residuals: the residuals of the first-order conditions.
      solution: the `Solution` of the augmented solve, for losses on sampled states and for
        `jacobian_loss`.
    """

    z: State
    x: State
    mu: State
    cost: Float[Array, " B"]
    residuals: Residuals
    solution: Solution

    @property
    def result(self) -> SolverResult:
        """The `SolverResult` of the augmented solve."""
        return self.solution.result


def augmented_map(
    f: Map, cost: Cost, project: Project | None = None
) -> Callable[[Augmented, tuple[PyTree, Steps]], Augmented]:
    """Return the map whose fixed points meet the first-order conditions.

        z ← z + s_z (f(z, x) − z)
        x ← P(x − s_x (∂ℓ/∂x + μ ∂f/∂x))
        μ ← μ + s_μ (∂ℓ/∂z + μ ∂f/∂z − μ)

    All three read the old state. One application costs one evaluation of f and ℓ and one pullback.

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
            _projected(project, _move(w.x, -steps.x, by_x)),
            _move(w.mu, steps.mu, _minus(by_z, w.mu)),
        )

    return step


def optimise(
    f: Map,
    cost: Cost,
    z0: State,
    x0: State,
    args: PyTree,
    *,
    mu0: State | None = None,
    deq: Callable[..., Solution] | None = None,
    steps: Steps = Steps(),
    project: Project | None = None,
) -> Optimum:
    """Return the minimum of ℓ(z, x) over x, where z = f(z, x), of each sample of the batch."""
    deq = DEQ(Anderson(max_steps=300, tol=1e-5)) if deq is None else deq
    z0, x0 = as_state(z0), as_state(x0)
    w0 = Augmented(z0, x0, jax.tree.map(jnp.zeros_like, z0) if mu0 is None else as_state(mu0))
    _check(f, cost, project, w0, args)
    solution = deq(augmented_map(f, cost, project), w0, (args, steps))
    w = solution.z._replace(x=_projected(project, solution.z.x))
    at = lax.stop_gradient(w)
    fz, by_z, by_x = lax.stop_gradient(_derivatives(f, cost, at, args))
    moved = _projected(project, _move(at.x, -1, by_x))
    residuals = Residuals(*map(norm, (_minus(fz, at.z), _minus(by_z, at.mu), _minus(at.x, moved))))
    return Optimum(w.z, w.x, w.mu, _envelope(f, cost, at, args), residuals, solution)


def _check(f: Map, cost: Cost, project: Project | None, w: Augmented, args: PyTree) -> None:
    """Raise ValueError unless the functions return what their protocols say."""
    check_map(w.z, jax.eval_shape(f, w.z, w.x, args))
    batch = jax.tree.leaves(w.z)[0].shape[:1]
    if (found := jax.eval_shape(cost, w.z, w.x, args)).shape != batch:
        raise ValueError(
            f"cost returns the shape {found.shape}; it must return one number for each sample, "
            f"{batch}. Reduce over all axes but the first."
        )
    if project is not None:
        check_map(w.x, jax.eval_shape(project, w.x), "project")


def _derivatives(f: Map, cost: Cost, w: Augmented, args: PyTree) -> tuple[State, State, State]:
    """Return f(z, x), ∂ℓ/∂z + μ ∂f/∂z and ∂ℓ/∂x + μ ∂f/∂x."""

    def lagrangian(z: State, x: State) -> tuple[Float[Array, ""], State]:
        fz = f(z, x, args)
        return (cost(z, x, args) + inner(w.mu, fz)).sum(), fz

    (by_z, by_x), fz = jax.grad(lagrangian, argnums=(0, 1), has_aux=True)(w.z, w.x)
    return fz, by_z, by_x


def _envelope(f: Map, cost: Cost, w: Augmented, args: PyTree) -> Float[Array, " B"]:
    """Return ℓ(z, x), with the gradient of ℓ(z, x) + ⟨μ, f(z, x)⟩ with respect to args."""
    constraint = inner(w.mu, f(w.z, w.x, args))
    return cost(w.z, w.x, args) + constraint - lax.stop_gradient(constraint)


def _move(x: State, step: Array | float, direction: State) -> State:
    return jax.tree.map(lambda x, d: x + step * d, x, direction)


def _minus(a: State, b: State) -> State:
    return jax.tree.map(jnp.subtract, a, b)


def _projected(project: Project | None, x: State) -> State:
    return x if project is None else project(x)
