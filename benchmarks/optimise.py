"""Optimising over the input: which solver settings work, and the cost of the nested way.

    python -m benchmarks.optimise settings --seeds 0 1 2
    python -m benchmarks.optimise nested --seeds 0 1 2

`settings` solves the augmented map of five generated problems by solvers of several settings, and
says which share of the samples each has solved and in how many steps. `nested` compares it with
gradient descent, Adam and L-BFGS over the input. The step sizes of all methods are tuned on another
problem of the same kind. It counts evaluations of f and of its pullback until the
relative gap of the cost to the best one known is 1e-2, 1e-4 and 1e-6. All is in float64.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.input_problems import PROBLEMS, Problem, make
from benchmarks.nested import Trajectory, joint, nested, true_cost
from benchmarks.timing import report
from mdeq_jax.implicit import DEQ, Steps, optimise
from mdeq_jax.solvers import Anderson, Broyden, Picard, Solver

TOL, LIMIT = 1e-8, 1000
SETTINGS: dict[str, Solver] = {
    "picard": Picard(LIMIT, TOL),
    "broyden": Broyden(LIMIT // 2, TOL),
    **{
        f"anderson {window} {ridge:g}": Anderson(LIMIT, TOL, window=window, ridge=ridge)
        for window, ridge in itertools.product((3, 6, 10, 20), (1e-4, 1e-8, 1e-12))
    },
}
GAPS = 1e-2, 1e-4, 1e-6
EXACTLY = Broyden(200, 1e-11)
INNER = Broyden(100, 1e-6)
HELD_OUT = 1000  # added to a seed for the problem that the baselines are tuned on
OPTIMIZERS: dict[str, tuple[Callable[[float], Any], tuple[float, ...], int, bool]] = {
    "descent": (optax.sgd, (0.03, 0.1, 0.3), 1500, False),
    "adam": (optax.adam, (0.03, 0.1, 0.3), 800, False),
    "l-bfgs": (lambda rate: optax.lbfgs(rate, linesearch=None), (1.0,), 100, True),
}


@functools.partial(jax.jit, static_argnames=("f", "cost", "solver", "normalised"))
def solved(f: Any, cost: Any, z0: Any, x0: Any, args: Any, solver: Solver, normalised: bool) -> Any:
    """Return the `Optimum`; `normalised` divides ℓ by ‖∂ℓ/∂z‖ at the start."""
    if normalised:
        by_z = jax.grad(lambda z: cost(z, x0, args).sum())(z0)
        size = jnp.linalg.norm(by_z, axis=-1)
        return optimise(
            f, lambda z, x, args: cost(z, x, args) / size, z0, x0, args, deq=DEQ(solver)
        )
    return optimise(f, cost, z0, x0, args, deq=DEQ(solver))


def settings(seeds: list[int], problems: list[str]) -> None:
    """Print, for each setting and problem, the share of samples solved and their mean steps."""
    rows = []
    for (setting, solver), normalised in itertools.product(SETTINGS.items(), (False, True)):
        row: dict[str, Any] = {"setting": setting, "cost divided": "yes" if normalised else "no"}
        for name in problems:
            results = [solved(*make(name, seed), solver, normalised).result for seed in seeds]
            converged = np.concatenate([r.converged for r in results])
            steps = np.concatenate([r.steps for r in results])[converged]
            share = f"{100 * converged.mean():.0f}%"
            row[name] = f"{share} {steps.mean():.0f}" if len(steps) else share
        rows.append(row)
        print(row, flush=True)
    report("optimise_settings", rows)


@functools.partial(jax.jit, static_argnames=("f", "cost"))
def _cost(f: Any, cost: Any, z0: Any, args: Any, x: Any) -> Any:
    return true_cost(f, cost, z0, x, args, EXACTLY)


def costs(problem: Problem, trajectory: Trajectory) -> np.ndarray:
    """Return the cost of each input of a trajectory at its own equilibrium, (K, B)."""
    f, cost, z0, _, args = problem
    return np.stack([_cost(f, cost, z0, args, x) for x in trajectory.x])


def best_known(problem: Problem, seed: int) -> np.ndarray:
    """Return the lowest cost of each sample that several starts find, solved to 1e-12."""
    f, cost, z0, x0, args = problem
    starts = np.random.default_rng(seed).normal(size=(5, *x0.shape))
    starts[0] = 0
    found = _best(f, cost, z0, jnp.asarray(starts), args)
    return np.asarray(_cost(f, cost, z0, args, found))


@functools.partial(jax.jit, static_argnames=("f", "cost"))
def _best(f: Any, cost: Any, z0: Any, x0: Any, args: Any) -> Any:
    layer = DEQ(Anderson(3000, 1e-12))
    return optimise(f, cost, z0, x0, args, deq=layer, starts=len(x0)).x


def methods(problem: Problem, solver: Solver) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Return, by name, a compiled function (rate, z0, x0, args) -> trajectory, and the rates."""
    f, cost = problem[:2]

    def one_solve(rate: Any, *problem: Any) -> Trajectory:
        return joint(f, cost, *problem, solver=solver, steps=Steps(x=rate), every=2)

    found: dict[str, Any] = {"joint": (jax.jit(one_solve), (0.03, 0.1, 0.3))}
    for (name, (optimizer, rates, iterations, search)), warm in itertools.product(
        OPTIMIZERS.items(), (False, True)
    ):

        def run(
            rate: Any,
            *problem: Any,
            make: Any = optimizer,
            length: int = iterations,
            search: bool = search,
            warm: bool = warm,
        ) -> Trajectory:
            options = {"solver": INNER, "iterations": length, "warm": warm, "line_search": search}
            found = nested(f, cost, *problem, optimizer=make(rate), **options)
            return jax.tree.map(lambda x: x[length // 100 - 1 :: length // 100], found)

        found[f"{name}, {'warm' if warm else 'cold'}"] = jax.jit(run), rates
    return found


def evaluations_to(trajectory: Trajectory, found: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Return the evaluations until each gap, (gaps, B); inf for a gap that is never reached.

    Args:
      trajectory: what a method did.
      found: the costs of its inputs, (K, B).
      best: the best cost known of each sample.
    """
    counts = np.asarray(trajectory.evaluations, float)
    within = found - best <= np.asarray(GAPS)[:, None, None] * best
    first = counts[within.argmax(axis=1), np.arange(len(best))]
    return np.where(within.any(axis=1), first, np.inf)


def nested_table(seeds: list[int], name: str, solver: Solver) -> None:
    """Print the median evaluations of each method to each gap, and the share that reaches it."""
    rows, held_out = [], make(name, HELD_OUT)
    problems = [make(name, seed) for seed in seeds]
    lowest, *best = (best_known(problem, 0) for problem in (held_out, *problems))
    for method, (run, rates) in methods(held_out, solver).items():
        tried = {}
        for rate in rates:
            trajectory = run(rate, *held_out[2:])
            reached = evaluations_to(trajectory, costs(held_out, trajectory), lowest)
            # A gap that is never reached counts as ten times the evaluations that were spent.
            spent = 10.0 * np.asarray(trajectory.evaluations[-1])
            tried[rate] = np.log(np.minimum(reached, spent)).mean()
        rate = min(tried, key=lambda rate: tried[rate])
        reached, seconds = [], []
        for problem, least in zip(problems, best, strict=True):
            start = time.perf_counter()
            trajectory = jax.block_until_ready(run(rate, *problem[2:]))
            taken = time.perf_counter() - start
            reached.append(evaluations_to(trajectory, costs(problem, trajectory), least))
            spent = np.asarray(trajectory.evaluations[-1], float)
            seconds.append(taken * np.max(np.minimum(reached[-1][1], spent) / spent))
        together = np.concatenate(reached, axis=1)
        row: dict[str, Any] = {"method": method, "rate": rate}
        for gap, of_gap in zip(GAPS, together, strict=True):
            row[f"to {gap:g}"] = float(np.median(of_gap))
            row[f"share {gap:g}"] = float(np.isfinite(of_gap).mean())
        rows.append(row | {"seconds to 1e-4": float(np.mean(seconds))})
        print(rows[-1], flush=True)
    report("optimise_nested", rows, problem=name)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.optimise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=("settings", "nested"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--window", type=int, default=6, help="of Anderson, for nested")
    parser.add_argument("--ridge", type=float, default=1e-4, help="of Anderson, for nested")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.part == "settings":
        settings(options.seeds, options.problems)
    else:
        solver = Anderson(LIMIT, 1e-10, window=options.window, ridge=options.ridge)
        nested_table(options.seeds, options.problems[0], solver)


if __name__ == "__main__":
    main()
