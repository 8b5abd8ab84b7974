"""The nested baselines of `mdeq_jax.optimise`: an optimiser over x, with a solve for each step.

    minimise F(x) = ℓ(z*(x), x) over x, where z* = f(z*, x)

Each step of the optimiser solves the equilibrium and its adjoint equation. Everything is counted in
evaluations of f and of its pullback, for each sample by itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from mdeq_jax.implicit import DEQ, Exact, Steps, equilibrium, optimise
from mdeq_jax.implicit.augmented import Cost, Map, Project
from mdeq_jax.solvers import Solver, State
from mdeq_jax.solvers.norms import inner, per_sample, select

# A step that does not lower the cost is halved, up to so many times.
_HALVINGS = 12


class Trajectory(NamedTuple):
    """Inputs on the way, and what they have cost.

    Attributes:
      x: the inputs, leaves (K, B, ...).
      evaluations: (K, B), evaluations of f and of its pullback until then.
    """

    x: State
    evaluations: Int[Array, "K B"]


class _Search(NamedTuple):
    """What a line search carries: its length, step sizes, points, evaluations, and who goes on."""

    halvings: Int[Array, ""]
    size: Float[Array, " B"]
    x: State
    z: State
    evaluations: Int[Array, " B"]
    searching: Bool[Array, " B"]


def _handed_u(_: State, given: dict[str, Any]) -> State:
    return given["u"]


def nested(
    f: Map,
    cost: Cost,
    z0: State,
    x0: State,
    args: PyTree,
    *,
    optimizer: optax.GradientTransformation,
    solver: Solver,
    iterations: int,
    warm: bool = True,
    line_search: bool = False,
    project: Project | None = None,
) -> Trajectory:
    """Return the inputs after each step of an optimiser over x, with the exact implicit gradient.

    A solve of n steps costs n + 1 evaluations of f, and one more at its end, where f is linearised.
    An adjoint solve of n steps costs n + 1 pullbacks, and one more into x.

    Args:
      f: the map (z, x, args) -> z.
      cost: the function (z, x, args) -> ℓ, (B,).
      z0: where the first solve starts, leaves (B, ...).
      x0: where the optimiser starts, leaves (B, ...).
      args: the arguments of f and cost.
      optimizer: the optimiser, which sees each sample by itself.
      solver: the solver of the equilibrium and of its adjoint equation.
      iterations: K, the number of steps of the optimiser.
      warm: whether both solves start where the last ones ended, or from z0 and 0.
      line_search: whether the step of a sample is halved until its cost is lower.
      project: the projection onto the inputs that are allowed, after each step.
    """
    adjoint = Exact(solver, start=_handed_u)
    probe = jnp.zeros((*jax.tree.leaves(z0)[0].shape[:1], 2), jax.tree.leaves(x0)[0].dtype)
    zero = jax.tree.map(jnp.zeros_like, z0)

    def solved(x: State, shift: State, z: State, u: State, probe: Array) -> Any:
        shifted = lambda z, a: jax.tree.map(jnp.add, f(z, a["x"], args), a["shift"])  # noqa: E731
        given = {"x": x, "shift": shift, "u": u}
        options = {"solver": solver, "adjoint": adjoint, "adjoint_probe": probe}
        z, result = equilibrium(shifted, z, given, **options)
        value = cost(z, x, args)
        return value.sum(), (z, value, result.steps + 1)

    def step(carry: Any, _: None) -> Any:
        x, z, u, state, count = carry
        # The gradient with respect to a shift of f is u.
        gradient = jax.grad(lambda x, shift, probe: solved(x, shift, z, u, probe), (0, 1, 2), True)
        (by_x, u, statistics), (z, value, forward) = gradient(x, zero, probe)
        count += forward + 1 + statistics[:, 0].astype(jnp.int32) + 2
        update, state = jax.vmap(optimizer.update)(by_x, state, x)
        moved = optax.apply_updates(x, update)
        if line_search:
            end = _search(lambda x, z: solved(x, zero, z, u, probe)[1], x, z, update, value, by_x)
            moved, z, count = end.x, end.z, count + end.evaluations
        x = moved if project is None else project(moved)
        carry = x, *((z, u) if warm else (z0, zero)), state, count
        return carry, Trajectory(x, count)

    count = jnp.zeros(len(probe), jnp.int32)
    start = x0, z0, zero, jax.vmap(optimizer.init)(x0), count
    return lax.scan(step, start, length=iterations)[1]


def _search(
    solved: Any, x: State, z: State, update: State, value: Float[Array, " B"], by_x: State
) -> _Search:
    """Return x + t · update with the first t of 1, ½, ¼, … that lowers the cost enough.

    Args:
      solved: the function (x, z) -> (z*, ℓ, evaluations), which starts at z.
      x: where the search starts.
      z: the equilibrium there.
      update: the direction.
      value: the cost at x.
      by_x: the gradient at x.
    """
    slope = jnp.minimum(inner(by_x, update), 0)

    def halve(s: _Search) -> _Search:
        def move(x: Array, d: Array) -> Array:
            return x + per_sample(s.size, d) * d

        trial = jax.tree.map(move, x, update)
        z_trial, found, evaluations = solved(trial, z)
        lower = found <= value + 1e-4 * s.size * slope
        accepted = s.searching & lower
        return _Search(
            s.halvings + 1,
            jnp.where(lower, s.size, s.size / 2),
            select(accepted, trial, s.x),
            select(accepted, z_trial, s.z),
            s.evaluations + jnp.where(s.searching, evaluations, 0),
            s.searching & ~lower,
        )

    none = jnp.zeros(len(value), jnp.int32)
    first = jnp.ones_like(value), x, z, none, jnp.ones(len(value), bool)
    goes_on = lambda s: s.searching.any() & (s.halvings < _HALVINGS)  # noqa: E731
    return lax.while_loop(goes_on, halve, _Search(jnp.zeros((), jnp.int32), *first))


def joint(
    f: Map,
    cost: Cost,
    z0: State,
    x0: State,
    args: PyTree,
    *,
    solver: Solver,
    steps: Steps,
    every: int = 1,
    project: Project | None = None,
) -> Trajectory:
    """Return the inputs that `optimise` would return, had it ended after so many steps.

    A step costs one evaluation of f and one pullback; the start costs one of each.

    Args:
      f: the map (z, x, args) -> z.
      cost: the function (z, x, args) -> ℓ, (B,).
      z0: where the equilibrium starts, leaves (B, ...).
      x0: where the input starts, leaves (B, ...).
      args: the arguments of f and cost.
      solver: the solver of the augmented map.
      steps: its step sizes.
      every: number of steps between two points of the trajectory.
      project: the projection onto the inputs that are allowed.
    """
    at = tuple(range(every, solver.max_steps + 1, every))
    layer = DEQ(solver, sample_at=at)
    optimum = optimise(f, cost, z0, x0, args, deq=layer, steps=steps, project=project)
    taken = jnp.minimum(jnp.asarray(at)[:, None], optimum.result.steps)
    assert optimum.result.states is not None  # `every` is at most max_steps
    x = optimum.result.states.x
    return Trajectory(x if project is None else jax.vmap(project)(x), 2 * (taken + 1))


def true_cost(
    f: Map, cost: Cost, z0: State, x: State, args: PyTree, solver: Solver
) -> Float[Array, " B"]:
    """Return F(x) = ℓ(z*(x), x), and inf where the solve fails.

    Args:
      f: the map (z, x, args) -> z.
      cost: the function (z, x, args) -> ℓ, (B,).
      z0: where the solve starts, leaves (B, ...).
      x: the inputs, leaves (B, ...).
      args: the arguments of f and cost.
      solver: a solver with a tight tolerance.
    """
    z, result = equilibrium(lambda z, x: f(z, x, args), z0, x, solver=solver)
    return jnp.where(result.converged, cost(z, x, args), jnp.inf)
