"""Solve a fixed point: `solve`, and the loop that every solver runs in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from mdeq_jax.solvers.captures import ClosedMap, without_captures
from mdeq_jax.solvers.folding import solve_folded
from mdeq_jax.solvers.norms import select, to_working_dtype, vary_together
from mdeq_jax.solvers.samples import (
    Samples,
    check_samples,
    complete_samples,
    no_samples,
    take_sample,
)
from mdeq_jax.solvers.solver import (
    Memory,
    Solver,
    SolverResult,
    State,
    check_map,
    check_solver,
    check_state,
)
from mdeq_jax.solvers.stopping import StopRule


def solve(
    f: Callable[[State, Any], State],
    z0: State,
    args: PyTree,
    solver: Solver,
    *,
    tol: Float[Array, ""] | float | None = None,
    step_limit: Int[Array, ""] | int | None = None,
    sample_at: tuple[int, ...] = (),
) -> SolverResult:
    """Find z = f(z, args) for each sample of a batch; the first axis of z0 is the batch.
    Call it under `jax.jit`: outside, each call compiles anew, because what f closes over may have
    changed since the last one.

    A state of shape (n,) is n samples of one number each. Pass a single problem in n unknowns as
    ``z0[None]``; f then maps (1, n) to (1, n).

    A step is one update of the state and one evaluation of f there; the evaluation at z0 is extra.
    A sample stops when its residual is at most `tol`, at the step limit, or when going on is
    pointless (residual not finite, exploded, stalled); it is frozen from then on, and what it
    returns does not depend on the rest of the batch. Not differentiable: see `equilibrium`.

    Args:
      f: the map, pure, each sample by itself; keeps structure, shapes and dtypes of the state.
      z0: where to start: a pytree of floating-point arrays (B, ...), of any mix of shapes and
        dtypes. 16-bit leaves are iterated in float32 and handed to f in their own dtype.
      args: handed to f as it is.
      solver: `Picard`, `Anderson`, `Broyden`, or a `Solver` of your own.
      tol: replaces solver.tol; may be traced.
      step_limit: fewer steps than solver.max_steps, which bounds it; may be traced.
      sample_at: rising numbers of steps in [1, max_steps] after which `SolverResult.states` keeps
        the best iterate. A sample that has stopped contributes the state that it returns.

    Returns:
      A `SolverResult`. A sample that did not converge says so there; nothing is raised. Its z is
      the iterate of the lowest residual. It is the start only if the start has converged or no step
      has a finite residual.

    Raises:
      ValueError: solver is not a `Solver`, z0 is not a state, f(z0) has another structure, shape
        or dtype, or sample_at is out of range; at trace time.

    Examples:
      Two samples, z = cos(z) and z = cos(z) / 10, each with its own number of steps:

      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> x = jnp.array([[1.0], [0.1]])
      >>> r = mx.solve(lambda z, x: x * jnp.cos(z), jnp.zeros((2, 1)), x, mx.Broyden(tol=1e-4))
      >>> print(r.z.round(3))
      [[0.739]
       [0.1  ]]
      >>> r.steps.tolist(), r.converged.tolist()
      ([4, 2], [True, True])
    """
    z0 = as_state(z0)
    check_solver(solver)
    closed_f, operands = without_captures(lambda z, _: f(z, args), z0, None)
    return solve_closed(closed_f, z0, operands, solver, tol, step_limit, sample_at)


def solve_closed(
    f: ClosedMap,
    z0: State,
    args: PyTree,
    solver: Solver,
    tol: Float[Array, ""] | float | None = None,
    step_limit: Int[Array, ""] | int | None = None,
    sample_at: tuple[int, ...] = (),
) -> SolverResult:
    """Solve like `solve`, for an f that closes over no array."""

    def run(f: Callable, z0: State, args: PyTree, tol: Any, step_limit: Any) -> SolverResult:
        options = {"tol": tol, "step_limit": step_limit, "sample_at": sample_at}
        return iterate(f, z0, args, solver, **options).result

    if solver.stop_scope == "batch" or f.has_effects:
        return run(f, z0, args, tol, step_limit)
    return solve_folded(run, f, z0, args, tol, step_limit)


def as_state(z: PyTree) -> State:
    """Return z with its leaves as arrays; raises ValueError unless it is a state."""
    z = jax.tree.map(jnp.asarray, z)
    check_state(z)
    return z


class Iteration(NamedTuple):
    """The result of a solve and the state of its loop, for code that continues it.

    Attributes:
      result: what `solve` returns.
      memory: what the solver remembers.
      z: the last iterate, in the working dtype.
      g: its residual f(z) − z.
      k: steps of the sample that took the most.
    """

    result: SolverResult
    memory: Memory
    z: State
    g: State
    k: Int[Array, ""]


class _Carry(NamedTuple):
    k: Int[Array, ""]
    z: State
    g: State
    memory: Memory
    active: Bool[Array, " B"]
    steps: Int[Array, " B"]
    best: State
    best_residual: Float[Array, " B"]
    best_step: Int[Array, " B"]
    trace: Float[Array, "max_steps B"]
    states: Samples


def iterate(
    f: Callable[[State, Any], State],
    z0: State,
    args: PyTree,
    solver: Solver,
    *,
    tol: Float[Array, ""] | float | None = None,
    step_limit: Int[Array, ""] | int | None = None,
    sample_at: tuple[int, ...] = (),
) -> Iteration:
    """Return what `solve` does, with its arguments, and where the solver stood when it ended.

    Both `tol` and `step_limit` may be (B,) too, a number for each sample.
    """
    check_solver(solver)
    z0 = as_state(z0)
    fz0 = f(z0, args)
    check_map(z0, fz0)
    check_samples(sample_at, solver.max_steps)
    dtypes = jax.tree.map(lambda x: x.dtype, z0)
    limit = solver.max_steps
    if step_limit is not None:
        limit = jnp.minimum(jnp.asarray(step_limit, jnp.int32), limit)

    def seen(z: State) -> State:
        return jax.tree.map(lambda x, dtype: x.astype(dtype), z, dtypes)

    def gap(fz: State, z: State) -> State:
        return jax.tree.map(jnp.subtract, to_working_dtype(fz), to_working_dtype(z))

    def advance(c: _Carry) -> _Carry:
        proposal, memory = solver.propose(c.memory, c.z, c.g, c.k)
        z = select(c.active, proposal, c.z)
        here = seen(z)
        g = gap(f(here, args), here)
        now = rule.measure(g, z)
        better = c.active & (now.residual < c.best_residual)
        best = select(better, here, c.best)
        best_step = jnp.where(better, c.k + 1, c.best_step)
        trace = lax.dynamic_update_index_in_dim(c.trace, now.residual, c.k, 0)
        stop = now.residual <= tolerance
        stop |= rule.is_pointless(now, trace, c.k, best_step, tolerance)
        return _Carry(
            k=c.k + 1,
            z=z,
            g=g,
            memory=memory,
            active=c.active & ~stop & (c.k + 1 < limit),
            steps=c.steps + c.active.astype(jnp.int32),
            best=best,
            best_residual=jnp.where(better, now.residual, c.best_residual),
            best_step=best_step,
            trace=trace,
            states=take_sample(c.states, best, c.k + 1, sample_at),
        )

    z = to_working_dtype(z0)
    g = gap(fz0, z0)
    rule, at_start = StopRule.begin(solver, z, g)
    first = at_start.residual
    tolerance = jnp.asarray(solver.tol if tol is None else tol, first.dtype)
    found = first <= tolerance
    start = _Carry(
        k=jnp.zeros((), jnp.int32),
        z=z,
        g=g,
        memory=solver.init(z, g),
        active=~found & jnp.isfinite(at_start.size) & (limit > 0),
        steps=jnp.zeros_like(first, jnp.int32),
        best=z0,
        # Unless it has converged, the start does not compete with the iterates.
        best_residual=jnp.where(found, first, jnp.inf),
        best_step=jnp.zeros_like(first, jnp.int32),
        trace=jnp.broadcast_to(jnp.zeros_like(first), (solver.max_steps, *first.shape)),
        states=no_samples(z0, sample_at),
    )
    # Each device counts its own steps, so under shard_map the whole carry varies.
    start = vary_together(start, like=g)
    end = lax.while_loop(lambda c: c.active.any(), advance, start)
    taken = jnp.arange(solver.max_steps, dtype=jnp.int32)[:, None] < end.steps[None]
    lowest = jnp.where(end.best_step == 0, first, end.best_residual)
    result = SolverResult(
        z=end.best,
        steps=end.steps,
        best_step=end.best_step,
        residual=lowest,
        converged=lowest <= tolerance,
        trace=jnp.where(taken, end.trace, lowest[None]),
        states=complete_samples(end.states, end.best, end.k, sample_at),
    )
    return Iteration(result, end.memory, end.z, end.g, end.k)
