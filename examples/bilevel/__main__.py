"""Bi-level optimisation on breast-cancer, with each estimator of the hyper-gradient in turn.

    python -m examples.bilevel --output runs/bilevel

It prints three tables, then one line of JSON with their figures.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from examples.bilevel.data import load_problem
from examples.bilevel.hypergradient import METHODS
from examples.bilevel.outer import Settings, Step, optimise
from examples.bilevel.pictures import plot_bilevel
from examples.bilevel.quality import Alignment, hypergradient_errors, inversion_quality

_OPA = {"": None, " + OPA": 5}
_PENALTIES = (0.01, 1.0, 100.0)
_SHOWN = ("validation", "test", "inner_steps", "evaluations", "seconds", "backward_seconds")

Table = dict[str, dict[str, float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiments of the command line, and return the exit code."""
    options = _parser().parse_args(argv)
    try:
        if options.seeds < 1:
            raise ValueError(f"--seeds is {options.seeds}; it must be at least 1.")
        settings = Settings(penalty=options.penalty, outer_steps=options.outer_steps)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
        with jax.enable_x64(True):
            _run(options, settings)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.bilevel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(METHODS)
    of = "of the hyper-gradient; all by default"
    parser.add_argument("--methods", nargs="+", choices=names, default=names, help=of)
    parser.add_argument("--seeds", type=int, default=5, help="random splits (%(default)s)")
    parser.add_argument("--tries", type=int, default=20, help="fits to invert (%(default)s)")
    parser.add_argument("--outer-steps", type=int, default=20, help="hyper-gradients (%(default)s)")
    parser.add_argument("--penalty", type=float, default=100.0, help="first penalty (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for bilevel.png")
    return parser


def _run(options: argparse.Namespace, settings: Settings) -> None:
    alignments = {
        direction + suffix: alignment
        for suffix, every in _OPA.items()
        for direction, alignment in _inversion(options.tries, suffix, every).items()
    }
    inversion = {name: _medians(alignment) for name, alignment in alignments.items()}
    title = f"B v against H⁻¹ v, median of {options.tries} tries"
    _print_table(title, inversion)

    errors = {name: _errors(name, options.seeds) for name in options.methods}
    title = f"relative error of the hyper-gradient by penalty, median of {options.seeds} splits"
    _print_table(title, errors)

    runs = {name: _descents(name, options.seeds, settings) for name in options.methods}
    last = {name: _last(steps) for name, steps in runs.items()}
    title = f"after {settings.outer_steps} outer steps from {settings.penalty}, mean of the splits"
    _print_table(title, last)

    if options.output:
        descents = {name: _losses(steps) for name, steps in runs.items()}
        scatter = {
            name: np.stack([alignment.norm_ratio, 1 - alignment.cosine])
            for name, alignment in alignments.items()
        }
        plot_bilevel(descents, scatter, options.output / "bilevel.png")
    print(json.dumps({"inversion": inversion, "hypergradient_error": errors, "outer": last}))


def _inversion(tries: int, suffix: str, every: int | None) -> Mapping[str, Alignment]:
    _progress(f"inversion{suffix}: {tries} fits")
    return inversion_quality(tries, opa_every=every)


def _medians(alignment: Alignment) -> dict[str, float]:
    return {
        "cosine": float(np.median(alignment.cosine)),
        "lowest cosine": float(np.min(alignment.cosine)),
        "norm ratio": float(np.median(alignment.norm_ratio)),
    }


def _errors(name: str, seeds: int) -> dict[str, float]:
    _progress(f"hyper-gradients by {name}")
    return {
        str(penalty): float(np.median(hypergradient_errors(METHODS[name], seeds, penalty)))
        for penalty in _PENALTIES
    }


def _descents(name: str, seeds: int, settings: Settings) -> list[list[Step]]:
    _progress(f"outer loop by {name}")
    problems = [load_problem(seed) for seed in range(seeds)]
    optimise(problems[0], METHODS[name], Settings(outer_steps=1))  # compiles, outside the clock
    return [optimise(problem, METHODS[name], settings) for problem in problems]


def _last(runs: list[list[Step]]) -> dict[str, float]:
    return {
        field: float(np.mean([getattr(steps[-1], field) for steps in runs])) for field in _SHOWN
    }


def _losses(runs: list[list[Step]]) -> np.ndarray:
    return np.mean([[(s.seconds, s.validation) for s in steps] for steps in runs], axis=0).T


def _progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _print_table(title: str, rows: Table) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n{title}\n{'':18}" + "".join(f"{column:>17}" for column in columns))
    for name, row in rows.items():
        print(f"{name:18}" + "".join(f"{row[column]:17.6g}" for column in columns))


if __name__ == "__main__":
    sys.exit(main())
