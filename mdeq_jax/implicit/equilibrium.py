"""The implicit layer: an equilibrium whose backward pass is a second fixed-point solve."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from mdeq_jax.implicit.adjoints import Adjoint, Exact, ForwardProblem
from mdeq_jax.solvers import Broyden, Solver, SolverResult, State
from mdeq_jax.solvers.captures import ClosedMap, without_captures
from mdeq_jax.solvers.norms import expanded, norm, vary_together
from mdeq_jax.solvers.solve import as_state
from mdeq_jax.solvers.solver import check_map


def equilibrium(
    f: Callable[[State, Any], State],
    z0: State,
    args: PyTree,
    *,
    solver: Solver | None = None,
    adjoint: Adjoint | None = None,
    tol: Float[Array, ""] | float | None = None,
    step_limit: Int[Array, ""] | int | None = None,
    adjoint_probe: Float[Array, "B 2"] | None = None,
    sample_at: tuple[int, ...] = (),
    outer_gradient: Callable[[State], State] | None = None,
) -> tuple[State, SolverResult]:
    """Return z* = f(z*, args), differentiable in args and in what f closes over.
    The first axis of z0 is the batch. Call it under `jax.jit`: outside, each call compiles anew,
    because what f closes over may have changed since the last one.

    A state of shape (n,) is n samples of one number each. Pass a single problem in n unknowns as
    ``z0[None]``; f then maps (1, n) to (1, n).

    With ℓ a loss of z* and g = ∂ℓ/∂z*, dℓ/dargs = u ∂f/∂args where u = u ∂f/∂z + g at z*. Memory
    does not grow with the number of steps but by what the solver itself remembers. Works under
    `jit`, `vmap`, `shard_map` and `grad` of any order (reverse mode; there is no forward mode).

    Args:
      f: the map (z, args) -> z, pure, each sample of the batch by itself.
      z0: where the solve starts, a pytree of floating-point arrays (B, ...). Its gradient is 0.
      args: any pytree of arrays; what f is differentiated by.
      solver: of the forward solve; `Broyden()` by default.
      adjoint: where the gradient comes from: `Exact(solver)` by default, `Neumann`,
        `JacobianFree`, `Shine`, `Phantom`, `Unrolled`, or an `Adjoint` of your own.
      tol: replaces solver.tol in the forward solve; may be traced.
      step_limit: bounds the forward solve below solver.max_steps; may be traced.
      adjoint_probe: zeros (B, 2). Its cotangent is no derivative but the adjoint solve's (steps,
        residual) of each sample: differentiate by it to see them.
      sample_at: rising numbers of steps in [1, max_steps] after which `SolverResult.states` keeps
        the best iterate; the sampled states are data, with no gradient.
      outer_gradient: z ↦ ∂ℓ/∂z of the loss, for `Shine(opa_every=...)`; each sample by itself, and
        only its direction matters. No gradient flows through it.

    Returns:
      The equilibrium and the `SolverResult` of the forward solve; what is differentiable is the
      equilibrium, in both places. Under `Phantom` it is the state after the damped steps, under
      `Unrolled` the state after all applications.

    Raises:
      ValueError: as `solve`; adjoint is none, or does not go with the solver; args holds what is
        no array; adjoint_probe is of another shape; or outer_gradient returns no gradient by the
        state.

    Examples:
      z = a z + 1 has z* = 1 / (1 - a), here 2, and the derivative 1 / (1 - a)², here 4, of which
      the Jacobian-free gradient is the first term:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> def z_star(a, adjoint=None):
      ...     z, _ = mx.equilibrium(lambda z, a: a * z + 1, jnp.zeros((1, 1)), a, adjoint=adjoint)
      ...     return z.sum()
      >>> float(z_star(0.5)), float(jax.grad(z_star)(0.5))
      (2.0, 4.0)
      >>> float(jax.grad(z_star)(0.5, mx.JacobianFree()))
      2.0

    Source: Bai, Kolter, Koltun, "Deep Equilibrium Models", NeurIPS 2019, theorem 1.
    """
    solver = Broyden() if solver is None else solver
    adjoint = Exact(solver) if adjoint is None else adjoint
    _check_adjoint(adjoint)
    z0 = as_state(z0)
    _check_args(args)
    fz0 = f(z0, args)
    check_map(z0, fz0)
    z0 = vary_together(z0, like=fz0)
    closed_f, operands = without_captures(f, z0, args)
    outer, outer_args = None, None
    if outer_gradient is not None:
        outer, outer_args = without_captures(
            lambda z, _: outer_gradient(z), z0, None, name="outer_gradient"
        )
    probe = expanded(jnp.zeros_like(norm(z0)), 2)
    if adjoint_probe is not None:
        if adjoint_probe.shape != probe.shape:
            raise ValueError(
                f"adjoint_probe has shape {adjoint_probe.shape}; it must have {probe.shape}."
            )
        # Adding zeros of the state's sharding gives the probe that sharding.
        probe = probe.astype(adjoint_probe.dtype) + adjoint_probe
    probe = vary_together(probe, like=fz0)

    def implicit(problem: ForwardProblem, adjoint: Adjoint) -> tuple[State, SolverResult]:
        f, z0, args, solver, tol, step_limit, sample_at, outer, outer_args = problem
        static = _Static(f, outer, solver, adjoint, sample_at)
        limits, outer_args = (tol, step_limit), lax.stop_gradient(outer_args)
        z, (result, _) = _equilibrium(static, z0, args, limits, probe, outer_args)
        return z, result

    problem = ForwardProblem(
        closed_f, z0, operands, solver, tol, step_limit, sample_at, outer, outer_args
    )
    z, result = adjoint.find(problem, implicit)
    return z, result._replace(z=z)


def _check_adjoint(adjoint: Any) -> None:
    if not isinstance(adjoint, Adjoint):
        raise ValueError(
            f"adjoint is {adjoint!r}; it must be an instance, such as JacobianFree() or "
            "Exact(Broyden(max_steps=30))."
        )


def _check_args(args: PyTree) -> None:
    for path, leaf in jax.tree.leaves_with_path(args):
        try:
            jax.typeof(leaf)
        except TypeError:
            raise ValueError(
                f"args{jax.tree_util.keystr(path)} is {leaf!r}, which is no array; let f close over"
                " it instead."
            ) from None


class _Static(NamedTuple):
    """The static arguments of an equilibrium."""

    f: ClosedMap
    outer_gradient: ClosedMap | None
    solver: Solver
    adjoint: Adjoint
    sample_at: tuple[int, ...]


def _fixed_point(
    static: _Static,
    z0: State,
    args: PyTree,
    limits: tuple,
    probe: Float[Array, "B 2"],
    outer_args: PyTree,
) -> tuple[State, tuple[SolverResult, Any]]:
    """Return what is differentiable, and beside it the result without it and what is kept."""
    f, outer_gradient, solver, adjoint, sample_at = static
    tol, step_limit = limits
    problem = ForwardProblem(
        f, z0, args, solver, tol, step_limit, sample_at, outer_gradient, outer_args
    )
    result, kept = adjoint.solve_forward(problem)
    return result.z, (result._replace(z=None), kept)


_equilibrium = jax.custom_vjp(_fixed_point, nondiff_argnums=(0,))


def _forward(static, z0, args, limits, probe, outer_args):
    # Through the custom_vjp itself, not through `solve`: an outer derivative then meets the
    # implicit function here too, and not a loop that it cannot reverse.
    z, (result, kept) = _equilibrium(static, z0, args, limits, probe, outer_args)
    return (z, (result, kept)), (z, args, limits, probe, outer_args, kept)


def _backward(static, residuals, cotangents):
    z, args, limits, probe, outer_args, kept = residuals
    g, _ = cotangents
    _, pullback_z = jax.vjp(lambda z: static.f(z, args), z)
    _, pullback_args = jax.vjp(lambda args: static.f(z, args), args)
    found = static.adjoint.solve(lambda u: pullback_z(u)[0], g, equilibrium, kept)
    statistics = [found.steps.astype(probe.dtype), found.residual.astype(probe.dtype)]
    nothing = jax.tree.map(jnp.zeros_like, z)
    probe = jnp.stack(statistics, axis=-1)
    none = jax.tree.map(lambda _: None, (limits, outer_args))
    return nothing, *pullback_args(found.u), none[0], probe, none[1]


_equilibrium.defvjp(_forward, _backward)
