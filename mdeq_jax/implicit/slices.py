"""Solves in slices: each starts from the state of the last one, for losses on several states."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Key

from mdeq_jax.implicit.adjoints import Adjoint
from mdeq_jax.implicit.phantom import Phantom
from mdeq_jax.solvers import Solver, SolverResult, State
from mdeq_jax.solvers.keys import fold_in_each, sample_keys
from mdeq_jax.solvers.samples import check_samples


def solve_slices(
    solve: Callable[..., tuple[State, SolverResult]],
    z0: State,
    solver: Solver,
    adjoint: Adjoint,
    sample_at: tuple[int, ...],
    phantom: Phantom,
    *,
    step_limit: Int[Array, ""] | int | None,
    key: Key[Array, "..."] | None,
) -> tuple[State, SolverResult, list[State]]:
    """Return the equilibrium, the joined results and the sampled states of all slices.

    Args:
      solve: `equilibrium` with its map and the arguments of the map.
      z0: where the first slice starts, leaves (B, ...).
      solver: the forward solver; max_steps is the number of steps of all slices together.
      adjoint: where the gradient of the last state comes from.
      sample_at: rising numbers of steps at which slices end, below solver.max_steps.
      phantom: where the gradient of the other states comes from.
      step_limit: bounds the number of steps of all slices together, or None.
      key: the key of the solve, or None; it is folded with the number of steps before a slice.
    """
    check_samples(sample_at, solver.max_steps - 1, "max_steps − 1")
    ends = (*sample_at, solver.max_steps)
    states, results, start, keys = [z0], [], 0, sample_keys(key, z0)
    for end in ends:
        z, result = solve(
            lax.stop_gradient(states[-1]),
            solver=dataclasses.replace(solver, max_steps=end - start),
            adjoint=adjoint if end == ends[-1] else phantom,
            step_limit=None if step_limit is None else step_limit - start,
            key=fold_in_each(keys, start),
        )
        states.append(z)
        results.append(result)
        start = end
    return states[-1], join_results(results), states[1:-1]


def join_results(results: list[SolverResult]) -> SolverResult:
    """Return the last of several results in turn, with the steps and traces of all.

    Args:
      results: the results of solves of which each starts where the one before it ended.
    """
    *earlier, last = results
    before = sum(result.steps for result in earlier)
    return last._replace(
        steps=before + last.steps,
        best_step=before + last.best_step,
        trace=jnp.concatenate([result.trace for result in results]),
    )
