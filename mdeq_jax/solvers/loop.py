"""The loop that every solver runs in: `iterate`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mdeq_jax.solvers import samples
from mdeq_jax.solvers.keys import fold_in_each, sample_keys
from mdeq_jax.solvers.norms import (
    cast_like,
    in_working_dtype,
    select,
    to_working_dtype,
    vary_together,
)
from mdeq_jax.solvers.solver import (
    Memory,
    Point,
    Solver,
    SolverResult,
    State,
    Status,
    as_state,
    check_map,
    check_solver,
)
from mdeq_jax.solvers.stopping import Measure, StopRule

Merit = Callable[[State, Float[Array, " B"]], Float[Array, " B"]]


class Iteration(NamedTuple):
    """The result of a solve and the state of its loop, for code that continues it.

    Attributes:
      result: what `solve` returns.
      memory: what the solver remembers.
      z: the last iterate, in the working dtype.
      g: its residual f(z) − z.
      k: number of steps of the sample that took the most.
    """

    result: SolverResult
    memory: Memory
    z: State
    g: State
    k: Int[Array, ""]

    def point(self, f: Callable[[State, Any], State], args: PyTree) -> Point:
        """Return where the loop ended, as `Solver.propose` takes it, without keys.

        Args:
          f: the map (z, args) -> z that was solved.
          args: its arguments.
        """
        return Point(self.z, self.g, self.k, in_working_dtype(f, args, like=self.result.z))


class _Carry(NamedTuple):
    """What the loop carries: the solver's state, what it saw, and what each sample returns."""

    k: Int[Array, ""]
    z: State
    g: State
    memory: Memory
    status: Int[Array, " B"]
    steps: Int[Array, " B"]
    best: State
    lowest: Float[Array, " B"]
    best_step: Int[Array, " B"]
    trace: Float[Array, "max_steps B"]
    states: samples.Samples

    def running(self, limit: Int[Array, "..."] | int) -> Bool[Array, " B"]:
        """Return whether no test has ended the sample and it may take another step."""
        return (self.status == Status.STEP_LIMIT) & (self.k < limit)


def iterate(
    f: Callable[[State, Any], State],
    z0: State,
    args: PyTree,
    solver: Solver,
    *,
    tol: Float[Array, "..."] | float | None = None,
    step_limit: Int[Array, "..."] | int | None = None,
    sample_at: tuple[int, ...] = (),
    key: Key[Array, "..."] | None = None,
    merit: Merit | None = None,
) -> Iteration:
    """Return the result of `solve`, with its arguments, and where the solver stood when it ended.

    Both `tol` and `step_limit` may also have the shape (B,), one number for each sample.
    """
    check_solver(solver)
    z0 = as_state(z0)
    fz0 = f(z0, args)
    check_map(z0, fz0)
    samples.check_samples(sample_at, solver.max_steps)
    limit = solver.max_steps
    if step_limit is not None:
        limit = jnp.minimum(jnp.asarray(step_limit, jnp.int32), limit)
    f_wide, keys = in_working_dtype(f, args, like=z0), sample_keys(key, z0)

    def point(z: State, g: State, k: Int[Array, ""]) -> Point:
        return Point(z, g, k, f_wide, fold_in_each(keys, k))

    def advance(c: _Carry) -> _Carry:
        running = c.running(limit)
        proposal, memory = solver.propose(c.memory, point(c.z, c.g, c.k))
        z = select(running, proposal, c.z)
        candidate = cast_like(z, z0)
        g = _subtract(f(candidate, args), candidate)
        now = rule.measure(g, z)
        score = _score(merit, candidate, now, rule)
        better = running & (score < c.lowest)
        best = select(better, candidate, c.best)
        best_step = jnp.where(better, c.k + 1, c.best_step)
        trace = lax.dynamic_update_index_in_dim(c.trace, now.residual, c.k, 0)
        status = rule.status(now, rule.has_stalled(now, trace, c.k, best_step))
        return _Carry(
            k=c.k + 1,
            z=z,
            g=g,
            memory=memory,
            status=jnp.where(running, status, c.status),
            steps=c.steps + running.astype(jnp.int32),
            best=best,
            lowest=jnp.where(better, score, c.lowest),
            best_step=best_step,
            trace=trace,
            states=samples.take_sample(c.states, best, c.k + 1, sample_at),
        )

    z, g, k = to_working_dtype(z0), _subtract(fz0, z0), jnp.zeros((), jnp.int32)
    rule, at_start = StopRule.begin(solver, z, g, tol)
    first, status = at_start.residual, rule.status(at_start)
    start = _Carry(
        k=k,
        z=z,
        g=g,
        memory=solver.init(point(z, g, k)),
        status=status,
        steps=jnp.zeros_like(status),
        best=z0,
        # Unless it has converged, the start does not compete with the iterates.
        lowest=jnp.where(status == Status.CONVERGED, first, jnp.inf),
        best_step=jnp.zeros_like(status),
        trace=jnp.broadcast_to(jnp.zeros_like(first), (solver.max_steps, *first.shape)),
        states=samples.no_samples(z0, sample_at),
    )
    # Each device counts its own steps, so under shard_map the whole carry varies.
    start = vary_together(start, like=(g, keys))
    end = lax.while_loop(lambda c: c.running(limit).any(), advance, start)
    taken = jnp.arange(solver.max_steps, dtype=jnp.int32)[:, None] < end.steps[None]
    of_best = end.lowest
    if merit is not None:
        of_best = jnp.take_along_axis(end.trace, end.best_step[None] - 1, axis=0)[0]
    residual = jnp.where(end.best_step == 0, first, of_best)
    result = SolverResult(
        z=end.best,
        steps=end.steps,
        best_step=end.best_step,
        residual=residual,
        converged=end.status == Status.CONVERGED,
        status=end.status,
        trace=jnp.where(taken, end.trace, residual[None]),
        states=samples.complete_samples(end.states, end.best, end.k, sample_at),
    )
    return Iteration(result, end.memory, end.z, end.g, end.k)


def _score(merit: Merit | None, z: State, now: Measure, rule: StopRule) -> Float[Array, " B"]:
    """Return the number by which iterates are compared; a converged one is the lowest of all."""
    if merit is None:
        return now.residual
    score = jnp.where(jnp.isfinite(now.residual), merit(z, now.residual), jnp.inf)
    return jnp.where(now.residual <= rule.tol, -jnp.inf, score)


def _subtract(fz: State, z: State) -> State:
    """Return fz − z in the working dtype."""
    return jax.tree.map(jnp.subtract, to_working_dtype(fz), to_working_dtype(z))
