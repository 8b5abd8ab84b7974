"""Solve a fixed point: `solve`, and the loop that every solver runs in."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mdeq_jax.solvers import samples
from mdeq_jax.solvers.captures import ClosedMap, without_captures
from mdeq_jax.solvers.folding import solve_folded
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
    key: Key[Array, "..."] | None = None,
) -> SolverResult:
    """Return the solution of z = f(z, args) for each sample; the first axis of z0 is the batch.
    Call it under `jax.jit`: outside, each call compiles anew, because what f closes over may have
    changed since the last call.

    A state of shape (n,) is n samples of one number each. Pass a single problem in n unknowns as
    ``z0[None]``; f then maps (1, n) to (1, n).

    A step is one update of the state and one evaluation of f there; the evaluation at z0 is extra.
    A sample stops when its residual is at most `tol`, at the step limit, or when its residual is
    not finite, has exploded or has stalled; `SolverResult.status` says which. It is frozen from
    then on, and its result does not depend on the rest of the batch. See `equilibrium` for
    gradients.

    Args:
      f: the map (z, args) -> z, pure, each sample by itself. It keeps structure, shapes and dtypes
        of the state.
      z0: where to start: a pytree of floating-point arrays (B, ...), of any mix of shapes and
        dtypes. 16-bit leaves are iterated in float32 and handed to f in their own dtype.
      args: handed to f as it is.
      solver: `Picard`, `Anderson`, `Broyden`, or a `Solver` of your own.
      tol: replaces solver.tol, a scalar; may be traced.
      step_limit: bounds the solve below solver.max_steps; may be traced.
      sample_at: rising numbers of steps in [1, max_steps] after which the best iterate is added to
        `SolverResult.states`. A sample that has stopped contributes the state that it returns.
      key: for a solver that draws random numbers, such as `Picard(noise=0.1)`: one key, or an array
        of keys (B,), one for each sample. One key is folded with the number of each sample, so that
        a sample's result does not depend on the rest of the batch. Inside `shard_map` give
        `sample_keys`, because each device numbers its samples from 0.

    Returns:
      A `SolverResult`. Nothing is raised for a sample that did not converge. Its z is the iterate
      of the lowest residual. It is the start only if the start has converged or no step
      has a finite residual.

    Raises:
      ValueError: solver is not a `Solver`, z0 is not a state, f(z0) has another structure, shape
        or dtype, sample_at is out of range, or the solver needs a key; at trace time.

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
    keys = sample_keys(key, z0)
    if keys is not None:
        z0 = vary_together(z0, like=keys)
    closed = without_captures(lambda z: f(z, args), z0)
    return ForwardProblem(closed, z0, None, solver, tol, step_limit, sample_at, keys).solve()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForwardProblem:
    """A forward solve as a value; a pytree. It is what an `Adjoint` is asked to do.

    Attributes:
      f: the map (z, args) -> z. It is a pytree that holds what the map captured.
      z0: where the solve starts, leaves (B, ...).
      args: the arguments of f, any pytree of arrays.
      solver: the forward solver.
      tol: replaces solver.tol; may be traced.
      step_limit: bounds the solve below solver.max_steps; may be traced.
      sample_at: rising numbers of steps after which a state is sampled.
      keys: one key for each sample, for a solver that draws random numbers, or None.
      outer_gradient: the map z -> ∂ℓ/∂z of the loss ℓ, or None. The solve does not use it.
    """

    f: ClosedMap
    z0: State
    args: PyTree
    solver: Solver = dataclasses.field(metadata={"static": True})
    tol: Float[Array, "..."] | float | None = None
    step_limit: Int[Array, "..."] | int | None = None
    sample_at: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    keys: Key[Array, " B"] | None = None
    outer_gradient: ClosedMap | None = None

    def solve(self) -> SolverResult:
        """Return the result of the problem's own solver."""
        solver, sample_at = self.solver, self.sample_at
        if solver.stop_scope == "batch" or self.f.has_effects:
            return self.iterate(solver).result

        # It must not close over `self`: JAX keeps it longer than the arrays of the problem live.
        def run(f: Any, z0: State, args: PyTree, tol: Any, step_limit: Any, keys: Any) -> Any:
            options = tol, step_limit, sample_at, keys
            return ForwardProblem(f, z0, args, solver, *options).iterate(solver).result

        f = lambda z, f_and_args: f_and_args[0](z, f_and_args[1])  # noqa: E731
        options = self.tol, self.step_limit, self.keys
        return solve_folded(run, f, self.z0, (self.f, self.args), *options)

    def iterate(self, solver: Solver) -> "Iteration":
        """Return the result of another solver, and where that solver stood when it ended.

        Args:
          solver: takes the place of the problem's own solver.
        """
        options = {"tol": self.tol, "step_limit": self.step_limit, "sample_at": self.sample_at}
        return iterate(self.f, self.z0, self.args, solver, **options, key=self.keys)


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
    best_residual: Float[Array, " B"]
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
        better = running & (now.residual < c.best_residual)
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
            best_residual=jnp.where(better, now.residual, c.best_residual),
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
        best_residual=jnp.where(status == Status.CONVERGED, first, jnp.inf),
        best_step=jnp.zeros_like(status),
        trace=jnp.broadcast_to(jnp.zeros_like(first), (solver.max_steps, *first.shape)),
        states=samples.no_samples(z0, sample_at),
    )
    # Each device counts its own steps, so under shard_map the whole carry varies.
    start = vary_together(start, like=(g, keys))
    end = lax.while_loop(lambda c: c.running(limit).any(), advance, start)
    taken = jnp.arange(solver.max_steps, dtype=jnp.int32)[:, None] < end.steps[None]
    lowest = jnp.where(end.best_step == 0, first, end.best_residual)
    result = SolverResult(
        z=end.best,
        steps=end.steps,
        best_step=end.best_step,
        residual=lowest,
        converged=end.status == Status.CONVERGED,
        status=end.status,
        trace=jnp.where(taken, end.trace, lowest[None]),
        states=samples.complete_samples(end.states, end.best, end.k, sample_at),
    )
    return Iteration(result, end.memory, end.z, end.g, end.k)


def _subtract(fz: State, z: State) -> State:
    """Return fz − z in the working dtype."""
    return jax.tree.map(jnp.subtract, to_working_dtype(fz), to_working_dtype(z))
