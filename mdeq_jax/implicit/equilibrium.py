"""The implicit layer: an equilibrium whose backward pass is a second fixed-point solve."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, Bool, Float, Int, PyTree

from mdeq_jax.implicit.adjoints import Adjoint, Exact
from mdeq_jax.implicit.phantom import Phantom
from mdeq_jax.solvers import Broyden, Solver, SolverResult, State, solve
from mdeq_jax.solvers.common import check_map, vary_together


def equilibrium(
    f: Callable[[State, Any], State],
    z0: State,
    args: PyTree,
    *,
    solver: Solver | None = None,
    adjoint: Adjoint | Phantom | None = None,
    tol: Float[Array, ""] | float | None = None,
    step_limit: Int[Array, ""] | int | None = None,
    adjoint_probe: Float[Array, "B 2"] | None = None,
) -> tuple[State, SolverResult]:
    """Return z* = f(z*, args), differentiable in args and in what f closes over.

    With ℓ a loss of z* and g = ∂ℓ/∂z*, dℓ/dargs = u ∂f/∂args where u = u ∂f/∂z + g at z*. Memory
    does not grow with the number of steps but by what the solver itself remembers. Works under
    `jit`, `vmap`, `shard_map` and `grad` of any order (reverse mode; there is no forward mode).

    Args:
      f: the map (z, args) -> z, pure, each sample of the batch by itself.
      z0: where the solve starts, a pytree of floating-point arrays (B, ...). Its gradient is 0.
      args: any pytree; what f is differentiated by.
      solver: of the forward solve; `Broyden()` by default.
      adjoint: where the gradient comes from: `Exact(solver)` by default, `JacobianFree`,
        `Phantom`, or an `Adjoint` of your own.
      tol: replaces solver.tol in the forward solve; may be traced.
      step_limit: bounds the forward solve below solver.max_steps; may be traced.
      adjoint_probe: zeros (B, 2). Its cotangent is no derivative but the adjoint solve's (steps,
        residual) of each sample: differentiate by it to see them.

    Returns:
      The equilibrium and the `SolverResult` of the forward solve; what is differentiable is the
      equilibrium, in both places. Under `Phantom` it is the state after the damped steps.

    Raises:
      ValueError: as `solve`.

    Source: Bai, Kolter, Koltun, "Deep Equilibrium Models", NeurIPS 2019, theorem 1.
    """
    solver = Broyden() if solver is None else solver
    adjoint = Exact(solver) if adjoint is None else adjoint
    z0 = jax.tree.map(jnp.asarray, z0)
    fz0 = f(z0, args)
    check_map(z0, fz0)
    z0 = vary_together(z0, like=fz0)
    whole, everything = _without_captures(f, z0, args)
    limits = (tol, step_limit)
    if isinstance(adjoint, Phantom):
        fixed_z0, fixed_args = lax.stop_gradient((z0, everything))
        result = solve(whole, fixed_z0, fixed_args, solver, tol=tol, step_limit=step_limit)
        return _with_state(result, adjoint.unroll(whole, result.z, everything))
    if adjoint_probe is None:
        adjoint_probe = jnp.zeros((jax.tree.leaves(z0)[0].shape[0], 2))
    adjoint_probe = vary_together(adjoint_probe, like=fz0)
    z, statistics = _equilibrium(whole, solver, adjoint, z0, everything, limits, adjoint_probe)
    return _with_state(SolverResult(z, *statistics), z)


def _without_captures(
    f: Callable[[State, Any], State], z: State, args: PyTree
) -> tuple[Callable[[State, PyTree], State], PyTree]:
    """Return f as a function of z and one pytree that holds args and all that f closes over.

    `jax.closure_convert` would leave integers, booleans and keys captured, which a backward pass
    cannot reach from under another transformation, and remember an f whose captures changed since.
    """
    closed = jax.make_jaxpr(lambda z, args: f(z, args))(z, args)
    jaxpr, captured = closed.jaxpr, closed.consts
    structure = jax.tree.structure(z)

    def whole(z: State, everything: tuple[PyTree, list]) -> State:
        args, captured = everything
        leaves = jaxpr_as_fun(ClosedJaxpr(jaxpr, captured))(*jax.tree.leaves((z, args)))
        return jax.tree.unflatten(structure, leaves)

    return whole, (args, captured)


def _with_state(result: SolverResult, z: State) -> tuple[State, SolverResult]:
    return z, result._replace(z=z)


class _Statistics(NamedTuple):
    """A `SolverResult` without its state: all that is not differentiable."""

    steps: Int[Array, " B"]
    residual: Float[Array, " B"]
    converged: Bool[Array, " B"]
    trace: Float[Array, "max_steps B"]


def _fixed_point(
    f: Callable[[State, PyTree], State],
    solver: Solver,
    adjoint: Adjoint,
    z0: State,
    args: PyTree,
    limits: tuple,
    probe: Float[Array, "B 2"],
) -> tuple[State, _Statistics]:
    tol, step_limit = limits
    result = solve(f, z0, args, solver, tol=tol, step_limit=step_limit)
    return result.z, _Statistics(*result[1:])


_equilibrium = jax.custom_vjp(_fixed_point, nondiff_argnums=(0, 1, 2))


def _forward(f, solver, adjoint, z0, args, limits, probe):
    # Through the custom_vjp itself, not through `solve`: an outer derivative then meets the
    # implicit function here too, and not a loop that it cannot reverse.
    z, statistics = _equilibrium(f, solver, adjoint, z0, args, limits, probe)
    return (z, statistics), (z, args, limits, probe)


def _backward(f, solver, adjoint, kept, cotangents):
    z, args, limits, probe = kept
    g, _ = cotangents
    _, pullback_z = jax.vjp(lambda z: f(z, args), z)
    _, pullback_args = jax.vjp(lambda args: f(z, args), args)
    found = adjoint.solve(lambda u: pullback_z(u)[0], g, equilibrium)
    statistics = [found.steps.astype(probe.dtype), found.residual.astype(probe.dtype)]
    nothing = jax.tree.map(jnp.zeros_like, z)
    probe = jnp.stack(statistics, axis=-1)
    return nothing, *pullback_args(found.u), jax.tree.map(lambda _: None, limits), probe


_equilibrium.defvjp(_forward, _backward)
