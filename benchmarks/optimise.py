"""Optimising over the input: which solver settings work, and the cost of the nested way.

    python -m benchmarks.optimise settings --seeds 0 1 2
    python -m benchmarks.optimise nested --seeds 0 1 2

`settings` solves the augmented map of five generated problems by solvers of several settings, and
says which share of the samples each has solved and in how many steps. `nested` compares it with
gradient descent, Adam and L-BFGS over the input, whose learning rates and inner tolerances are
tuned on another problem of the same kind. It counts evaluations of f and of its pullback until the
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
INNER = 1e-4, 1e-8  # tolerances of the inner solves that are tried
HELD_OUT = 1000  # added to a seed for the problem that the baselines are tuned on
OPTIMIZERS: dict[str, tuple[Callable[[float], Any], tuple[float, ...], int, bool]] = {
    "descent": (optax.sgd, (0.03, 0.1, 0.3), 1500, False),
    "adam": (optax.adam, (0.03, 0.1, 0.3), 600, False),
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
def costs(f: Any, cost: Any, z0: Any, args: Any, x: Any) -> Any:
    """Return the cost of each input of a trajectory at its own equilibrium, (K, B)."""
    return true_cost(f, cost, z0, x, args, EXACTLY)


def evaluations_to(
    trajectory: Trajectory, found: np.ndarray, best: np.ndarray, gap: float
) -> np.ndarray:
    """Return the evaluations until each sample's relative gap is at most `gap`; inf for never."""
    within = found - best <= gap * best
    counts = np.asarray(trajectory.evaluations, float)
    first = counts[within.argmax(axis=0), np.arange(counts.shape[1])]
    return np.where(within.any(axis=0), first, np.inf)


def best_known(problem: Problem, seed: int) -> np.ndarray:
    """Return the lowest cost of each sample that several starts find, solved to 1e-12."""
    f, cost, z0, x0, args = problem
    starts = np.random.default_rng(seed).normal(size=(5, *x0.shape))
    starts[0] = 0
    layer = DEQ(Anderson(3000, 1e-12, window=10, ridge=1e-8))
    run = lambda z0, x0, args: optimise(f, cost, z0, x0, args, deq=layer, starts=5)  # noqa: E731
    optimum = jax.jit(run)(z0, jnp.asarray(starts), args)
    return np.asarray(costs(f, cost, z0, args, optimum.x[None])[0])


def timed(run: Callable[..., Trajectory], problem: Problem) -> tuple[Trajectory, float]:
    """Return the trajectory of a compiled method, and the seconds of its second call."""
    jax.block_until_ready(run(*problem[2:]))
    start = time.perf_counter()
    return jax.block_until_ready(run(*problem[2:])), time.perf_counter() - start


def methods(problem: Problem, solver: Solver) -> dict[str, dict[str, Callable[..., Trajectory]]]:
    """Return compiled functions (z0, x0, args) -> trajectory, by method and by its setting."""
    f, cost = problem[:2]
    found = {
        f"joint, {type(solver).__name__}": {
            f"x={x:g}": jax.jit(
                functools.partial(joint, f, cost, solver=solver, steps=Steps(x=x), every=4)
            )
            for x in (0.1,)
        }
    }
    for (name, (optimizer, rates, iterations, search)), warm in itertools.product(
        OPTIMIZERS.items(), (False, True)
    ):
        found[f"{name}, {'warm' if warm else 'cold'}"] = {
            f"{rate:g}, inner {tol:g}": jax.jit(
                functools.partial(
                    nested,
                    f,
                    cost,
                    optimizer=optimizer(rate),
                    solver=Broyden(100, tol),
                    iterations=iterations,
                    warm=warm,
                    line_search=search,
                )
            )
            for rate, tol in itertools.product(rates, INNER)
        }
    return found


def nested_table(seeds: list[int], name: str, solver: Solver) -> None:
    """Print the median evaluations of each method to each gap, and the share that reaches it."""
    rows, held_out = [], make(name, HELD_OUT)
    best_held_out = best_known(held_out, 0)
    problems = [make(name, seed) for seed in seeds]
    best = [best_known(problem, seed) for seed, problem in zip(seeds, problems, strict=True)]
    for method, variants in methods(held_out, solver).items():
        tried = {}
        for variant, run in variants.items():
            trajectory = run(*held_out[2:])
            found = np.asarray(costs(*held_out[:3], held_out.args, trajectory.x))
            reached = [evaluations_to(trajectory, found, best_held_out, gap) for gap in GAPS]
            capped = np.minimum(reached, 10.0 * np.asarray(trajectory.evaluations[-1]))
            tried[variant] = np.log(capped).mean()  # over samples and gaps
        variant = min(tried, key=lambda key: tried[key])
        reached, seconds = [], []
        for problem, lowest in zip(problems, best, strict=True):
            trajectory, taken = timed(variants[variant], problem)
            found = np.asarray(costs(*problem[:3], problem.args, trajectory.x))
            reached.append([evaluations_to(trajectory, found, lowest, gap) for gap in GAPS])
            total = np.asarray(trajectory.evaluations[-1], float)
            seconds.append(taken * np.max(np.minimum(reached[-1][1], total) / total))
        together = np.concatenate(reached, axis=1)
        row: dict[str, Any] = {"method": method, "tuned": variant}
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
