"""The equilibrium layer: `DEQ`, and the function `equilibrium` with its implicit gradient."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from mdeq_jax.checks import require
from mdeq_jax.implicit.adjoints import Adjoint, Exact, check_adjoint
from mdeq_jax.implicit.phantom import Phantom
from mdeq_jax.implicit.slices import solve_slices
from mdeq_jax.solvers import Broyden, ForwardProblem, Solver, SolverResult, State
from mdeq_jax.solvers.captures import closed_merit, without_captures
from mdeq_jax.solvers.keys import sample_keys
from mdeq_jax.solvers.loop import Merit
from mdeq_jax.solvers.norms import expanded, norm, vary_together
from mdeq_jax.solvers.solver import as_state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """What a `DEQ` returns: the equilibrium, and all that a loss on it may need.

    Attributes:
      z: the equilibrium, differentiable in args and in what f closes over.
      result: the `SolverResult` of the forward solve.
      sampled: one state like z for each number in `DEQ.sample_at`, with a gradient.
      args: the arguments of f.
      f: the map (z, args) -> z, for `jacobian_loss` and `spectral_radius`.
    """

    z: State
    result: SolverResult
    sampled: tuple[State, ...]
    args: PyTree
    f: Callable[[State, Any], State] = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class DEQ:
    """How an equilibrium is found and differentiated: a deep equilibrium layer without its cell.

    States can be sampled during the solve, for losses on several states (fixed-point correction).
    With ``sampling="index"`` there is one solve. State i is the best iterate after sample_at[i]
    steps, followed by the phantom steps, which the solve does not see.

    With ``sampling="slice"`` there is one solve for each state and one for the equilibrium. Solve i
    takes up to sample_at[i] − sample_at[i − 1] steps. The phantom steps from its result give
    state i, and the next solve starts from that state, detached, with an empty memory. The last
    solve ends at solver.max_steps, and the adjoint differentiates it. `Solution.result` then has
    the steps of all solves, without the phantom steps, and their traces joined; residual, status
    and convergence are those of the last solve.

    With the adjoint `Unrolled` there is no solve. State i is the state after sample_at[i]
    applications, with the ordinary gradient.

    Sources: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022;
    `DEQIndexing` and `DEQSliced` in `torchdeq/core.py`, locuslab/torchdeq.

    Attributes:
      solver: the forward solver.
      adjoint: where the gradient comes from; None is ``Exact(solver)``.
      sample_at: rising numbers of steps after which a state is sampled, in [1, solver.max_steps],
        or below solver.max_steps with ``sampling="slice"``. With `Unrolled`, numbers of its
        applications.
      phantom: where the gradient of the sampled states comes from.
      sampling: "index" or "slice".

    Examples:
      The fixed point of z = a z + 1 is 1 / (1 − a), here 2, and its derivative 4:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> deq = mx.DEQ(mx.Broyden(tol=1e-5))
      >>> def z_star(a):
      ...     return deq(lambda z, a: a * z + 1, jnp.zeros((1, 1)), a).z.sum()
      >>> float(z_star(0.5)), float(jax.grad(z_star)(0.5))
      (2.0, 4.0)
    """

    solver: Solver = Broyden()
    adjoint: Adjoint | None = None
    sample_at: tuple[int, ...] = ()
    phantom: Phantom = Phantom()
    sampling: Literal["index", "slice"] = "index"

    def __post_init__(self):
        """Check the sampling; raises ValueError."""
        require(self, "sampling", self.sampling in ("index", "slice"), "'index' or 'slice'")

    def __call__(
        self,
        f: Callable[[State, Any], State],
        z0: State,
        args: PyTree,
        *,
        tol: Float[Array, ""] | float | None = None,
        step_limit: Int[Array, ""] | int | None = None,
        adjoint_probe: Float[Array, "B 2"] | None = None,
        outer_gradient: Callable[[State], State] | None = None,
        key: Key[Array, "..."] | None = None,
        merit: Merit | None = None,
    ) -> Solution:
        """Return the solution of z = f(z, args), each sample of the batch by itself.

        Args:
          f: the map (z, args) -> z, pure, each sample of the batch by itself.
          z0: where the solve starts, a pytree of floating-point arrays (B, ...).
          args: any pytree of arrays.
          tol: replaces solver.tol; may be traced.
          step_limit: bounds the number of steps below solver.max_steps; may be traced. Slices that
            start at or after it take no steps.
          adjoint_probe: zeros (B, 2), whose cotangent is the adjoint solve's (steps, residual).
          outer_gradient: the function z ↦ ∂ℓ/∂z of the loss, for ``Shine(opa_every=...)``.
          key: one key, or an array of keys (B,), one for each sample, for a solver that draws
            random numbers. Inside `shard_map` give `sample_keys`. Each slice draws other numbers.
          merit: the function (z, residual) -> (B,) by which the iterates of a sample are compared
            that has not converged; the lowest is returned. None compares residuals.

        Raises:
          ValueError: at trace time; as `equilibrium` does, or sample_at is out of range.
        """
        adjoint = Exact(self.solver) if self.adjoint is None else self.adjoint
        solve = functools.partial(
            equilibrium,
            f,
            args=args,
            tol=tol,
            adjoint_probe=adjoint_probe,
            outer_gradient=outer_gradient,
            merit=merit,
        )
        if self.sampling == "slice" and adjoint.is_solve:
            z, result, sampled = solve_slices(
                solve,
                z0,
                self.solver,
                adjoint,
                self.sample_at,
                self.phantom,
                step_limit=step_limit,
                key=key,
            )
        else:
            options = {"step_limit": step_limit, "sample_at": self.sample_at, "key": key}
            z, result = solve(z0, solver=self.solver, adjoint=adjoint, **options)
            sampled = [
                jax.tree.map(lambda x, i=i: x[i], result.states) for i in range(len(self.sample_at))
            ]
            if adjoint.is_solve:
                sampled = [self.phantom.unroll(f, lax.stop_gradient(z), args) for z in sampled]
        return Solution(z, result, tuple(sampled), args, f)


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
    key: Key[Array, "..."] | None = None,
    merit: Merit | None = None,
) -> tuple[State, SolverResult]:
    """Return z* = f(z*, args), differentiable in args and in what f closes over.
    The first axis of z0 is the batch. Call it under `jax.jit`: outside, each call compiles anew,
    because what f closes over may have changed since the last call.

    A state of shape (n,) is n samples of one number each. Pass a single problem in n unknowns as
    ``z0[None]``; f then maps (1, n) to (1, n).

    Let ℓ be a loss of z* and g = ∂ℓ/∂z*. Then dℓ/dargs = u ∂f/∂args, where u = u ∂f/∂z + g at z*.
    Memory does not grow with the number of steps, except by what the solver remembers. It works
    under `jit`, `vmap`, `shard_map` and `grad` of any order (reverse mode; there is no forward
    mode).

    Args:
      f: the map (z, args) -> z, pure, each sample of the batch by itself.
      z0: where the solve starts, a pytree of floating-point arrays (B, ...). Its gradient is 0.
      args: any pytree of arrays, the arguments of f.
      solver: the forward solver; `Broyden()` by default.
      adjoint: where the gradient comes from: `Exact(solver)` by default, `Neumann`,
        `JacobianFree`, `Shine`, `Phantom`, `Unrolled`, or an `Adjoint` of your own.
      tol: replaces solver.tol in the forward solve; may be traced.
      step_limit: bounds the forward solve below solver.max_steps; may be traced.
      adjoint_probe: zeros (B, 2). Its cotangent is not a derivative; it is the adjoint solve's
        (steps, residual) of each sample. Differentiate with respect to it to see them.
      sample_at: rising numbers of steps in [1, max_steps] after which the best iterate is added to
        `SolverResult.states`. These states have no gradient, except under `Unrolled`.
      outer_gradient: the function z ↦ ∂ℓ/∂z of the loss, for `Shine(opa_every=...)`; each sample by
        itself, and only its direction matters. No gradient flows through it.
      key: for a solver that draws random numbers, such as `Picard(noise=0.1)`: one key, or an array
        of keys (B,), one for each sample. One key is folded with the number of each sample, so that
        a sample's result does not depend on the rest of the batch. Inside `shard_map` give
        `sample_keys`, because each device numbers its samples from 0.
      merit: by what the iterates of a sample are compared that has not converged: a function
        (z, residual) -> (B,), each sample by itself. The iterate of the lowest number is returned,
        and sampled. None compares residuals. No gradient flows through it.

    Returns:
      The equilibrium z* and the `SolverResult` of the forward solve, whose z is z* too. Only z* is
      differentiable. Under `Phantom` it is the state after the damped steps, under `Unrolled` the
      state after all applications.

    Raises:
      ValueError: at trace time. solver is not a `Solver` or adjoint not an `Adjoint`, or they do
        not fit together; z0 is not a state; args has a leaf that is not an array; f(z0, args) or
        outer_gradient(z0) has another structure, shape or dtype than z0; merit does not return one
        number for each sample; adjoint_probe has another shape than (B, 2); sample_at is out of
        range; or the solver needs a key.

    Examples:
      z = a z + 1 has z* = 1 / (1 - a), here 2, and the derivative 1 / (1 - a)², here 4. The
      Jacobian-free gradient is the first term of its series:

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
    check_adjoint(adjoint)
    z0 = as_state(z0)
    closed = without_captures(f, z0, args)
    keys = sample_keys(key, z0)
    given, z0 = z0, vary_together(z0, like=(closed(z0, args), keys))
    if jax.tree.map(jax.typeof, given) != jax.tree.map(jax.typeof, z0):
        closed = without_captures(f, z0, args)  # on a mesh, for a start that is sharded like f(z0)
    if outer_gradient is not None:
        outer_gradient = without_captures(outer_gradient, z0, name="outer_gradient")
    unseen = lax.stop_gradient((outer_gradient, closed_merit(merit, z0)))
    problem = ForwardProblem(closed, z0, args, solver, tol, step_limit, sample_at, keys, *unseen)
    probe = _probe_like(adjoint_probe, z0)
    if (found := adjoint.find(problem)) is None:
        z, (result, _) = _equilibrium(adjoint, problem, probe)
    else:
        z, result = found
    return z, result._replace(z=z)


def _probe_like(adjoint_probe: Float[Array, "B 2"] | None, z0: State) -> Float[Array, "B 2"]:
    """Return the probe with the sharding of the state, or zeros if there is none."""
    zeros = expanded(jnp.zeros_like(norm(z0)), 2)
    if adjoint_probe is None:
        return vary_together(zeros, like=z0)
    if adjoint_probe.shape != zeros.shape:
        raise ValueError(
            f"adjoint_probe has shape {adjoint_probe.shape}; it must have {zeros.shape}."
        )
    # Adding zeros of the state's sharding gives the probe that sharding.
    return vary_together(zeros.astype(adjoint_probe.dtype) + adjoint_probe, like=z0)


def _fixed_point(
    adjoint: Adjoint, problem: ForwardProblem, probe: Float[Array, "B 2"]
) -> tuple[State, tuple[SolverResult, Any]]:
    """Return the solution, which is differentiable, with the rest of the result and the memory."""
    result, memory = adjoint.solve_forward(problem) or (problem.solve(), None)
    return result.z, (result._replace(z=None), memory)


_equilibrium = jax.custom_vjp(_fixed_point, nondiff_argnums=(0,))


def _forward(adjoint, problem, probe):
    # Through the custom_vjp itself, not through `solve`: an outer derivative then meets the
    # implicit function here too, and not a loop that cannot be differentiated in reverse mode.
    z, (result, memory) = _equilibrium(adjoint, problem, probe)
    return (z, (result, memory)), (dataclasses.replace(problem, z0=z), probe, memory)


def _backward(adjoint, residuals, cotangents):
    solved, probe, memory = residuals
    f, z, args = solved.f, solved.z0, solved.args
    g, _ = cotangents
    _, pullback_z = jax.vjp(lambda z: f(z, args), z)
    _, pullback_rest = jax.vjp(lambda f, args: f(z, args), f, args)
    found = adjoint.solve(lambda u: pullback_z(u)[0], g, equilibrium, memory)
    by_f, by_args = pullback_rest(found.u)
    by_z0 = jax.tree.map(jnp.zeros_like, z)
    none = dict.fromkeys(("tol", "step_limit", "outer_gradient", "keys", "merit"))
    by_problem = dataclasses.replace(solved, f=by_f, z0=by_z0, args=by_args, **none)
    statistics = [found.steps.astype(probe.dtype), found.residual.astype(probe.dtype)]
    return by_problem, jnp.stack(statistics, axis=-1)


_equilibrium.defvjp(_forward, _backward)
