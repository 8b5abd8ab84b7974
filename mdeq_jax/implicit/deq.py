"""The equilibrium layer as one value: how an equilibrium is found and differentiated."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from mdeq_jax.checks import require
from mdeq_jax.implicit.adjoints import Adjoint, Exact
from mdeq_jax.implicit.equilibrium import equilibrium
from mdeq_jax.implicit.phantom import Phantom
from mdeq_jax.solvers import Broyden, Solver, SolverResult, State
from mdeq_jax.solvers.keys import fold_in_each, sample_keys
from mdeq_jax.solvers.samples import check_samples


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """What a `DEQ` returns: the equilibrium, and all that a loss on it may need.

    Attributes:
      z: the equilibrium, differentiable in args and in what f closes over.
      result: the `SolverResult` of the forward solve.
      sampled: one state like z for each number in `DEQ.sample_at`, with a phantom gradient.
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

    Sources: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022;
    `DEQIndexing` and `DEQSliced` in `torchdeq/core.py`, locuslab/torchdeq.

    Attributes:
      solver: the forward solver.
      adjoint: where the gradient comes from; None is ``Exact(solver)``.
      sample_at: rising numbers of steps after which a state is sampled, in [1, solver.max_steps],
        or below solver.max_steps with ``sampling="slice"``. `Unrolled` samples no states.
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
        )
        if self.sampling == "slice" and adjoint.is_solve:
            z, result, sampled = self._solve_slices(solve, z0, adjoint, step_limit, key)
        else:
            options = {"step_limit": step_limit, "sample_at": self.sample_at, "key": key}
            z, result = solve(z0, solver=self.solver, adjoint=adjoint, **options)
            count = 0 if result.states is None else len(self.sample_at)
            states = [jax.tree.map(lambda x, i=i: x[i], result.states) for i in range(count)]
            sampled = [self.phantom.unroll(f, lax.stop_gradient(z), args) for z in states]
        return Solution(z, result, tuple(sampled), args, f)

    def _solve_slices(
        self,
        solve: Callable[..., tuple[State, SolverResult]],
        z0: State,
        adjoint: Adjoint,
        step_limit: Int[Array, ""] | int | None,
        key: Key[Array, "..."] | None,
    ) -> tuple[State, SolverResult, list[State]]:
        """Return the equilibrium, the joined results and the sampled states of all slices."""
        check_samples(self.sample_at, self.solver.max_steps - 1, "max_steps − 1")
        ends = (*self.sample_at, self.solver.max_steps)
        states, results, start, keys = [z0], [], 0, sample_keys(key, z0)
        for end in ends:
            z, result = solve(
                lax.stop_gradient(states[-1]),
                solver=dataclasses.replace(self.solver, max_steps=end - start),
                adjoint=adjoint if end == ends[-1] else self.phantom,
                step_limit=None if step_limit is None else step_limit - start,
                key=fold_in_each(keys, start),
            )
            states.append(z)
            results.append(result)
            start = end
        return states[-1], _join(results), states[1:-1]


def _join(results: list[SolverResult]) -> SolverResult:
    """Return the last of several results in turn, with the steps and traces of all."""
    *earlier, last = results
    before = sum(result.steps for result in earlier)
    return last._replace(
        steps=before + last.steps,
        best_step=before + last.best_step,
        trace=jnp.concatenate([result.trace for result in results]),
    )
