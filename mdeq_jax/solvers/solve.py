"""Solve a fixed point: `solve`, and a solve as a value."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, Int, Key, PyTree

from mdeq_jax.solvers.captures import ClosedMap, closed_merit, without_captures
from mdeq_jax.solvers.folding import solve_folded
from mdeq_jax.solvers.keys import sample_keys
from mdeq_jax.solvers.loop import Iteration, Merit, iterate
from mdeq_jax.solvers.norms import vary_together
from mdeq_jax.solvers.solver import Solver, SolverResult, State, as_state, check_solver


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
    merit: Merit | None = None,
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
      merit: by what the iterates of a sample are compared that has not converged: a function
        (z, residual) -> (B,), each sample by itself. The iterate of the lowest number is returned,
        and sampled. None compares residuals. An iterate that has converged is always returned.

    Returns:
      A `SolverResult`. Nothing is raised for a sample that did not converge. Its z is the iterate
      of the lowest residual or merit. It is the start only if the start has converged or no step
      has a finite residual.

    Raises:
      ValueError: solver is not a `Solver`, z0 is not a state, f(z0) has another structure, shape
        or dtype, merit does not return one number for each sample, sample_at is out of range, or
        the solver needs a key; at trace time.

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
    options = {"tol": tol, "step_limit": step_limit, "sample_at": sample_at, "keys": keys}
    merit = closed_merit(merit, z0)
    return ForwardProblem(closed, z0, None, solver, **options, merit=merit).solve()


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
      merit: by what iterates are compared, or None for the residual.
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
    merit: ClosedMap | None = None

    def solve(self) -> SolverResult:
        """Return the result of the problem's own solver."""
        solver, sample_at = self.solver, self.sample_at
        if solver.stop_scope == "batch" or self.f.has_effects:
            return self.iterate(solver).result

        # It must not close over `self`: JAX keeps it longer than the arrays of the problem live.
        def run(maps: Any, z0: State, args: PyTree, tol: Any, step_limit: Any, keys: Any) -> Any:
            f, *merits = maps
            merit = (lambda z, residual: merits[0]((z, residual), args)) if merits else None
            options = {"tol": tol, "step_limit": step_limit, "sample_at": sample_at, "key": keys}
            return iterate(f, z0, args, solver, **options, merit=merit).result

        maps = (
            lambda z, operands: operands[0](z, operands[1]),
            lambda point, operands: operands[2](*point),
        )
        operands = self.f, self.args, self.merit
        maps = maps if self.merit else maps[:1]
        return solve_folded(run, maps, self.z0, operands, self.tol, self.step_limit, self.keys)

    def iterate(self, solver: Solver) -> Iteration:
        """Return the result of another solver, and where that solver stood when it ended.

        Args:
          solver: takes the place of the problem's own solver.
        """
        options = {"tol": self.tol, "step_limit": self.step_limit, "sample_at": self.sample_at}
        options |= {"key": self.keys, "merit": self.merit}
        return iterate(self.f, self.z0, self.args, solver, **options)
