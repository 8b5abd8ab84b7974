"""Measure what the DEQ-Transformer claims: regularisation, solver steps, memories, and training.

    python -m benchmarks.language train --workdir runs/language --steps 4000 --seeds 0 1 2
    python -m benchmarks.language memory --workdir runs/language --solver-steps 12 24

"train" trains a post-LN and a pre-LN cell, each with and without Jacobian regularisation, and the
post-LN cell unrolled, each from every seed. It evaluates them with 6, 12 and 24 solver steps and
with memories of 0 to 128 positions. "memory" compiles training steps and runs none. Both write
their results to the workdir, where the same command continues. They print a table and one line of
JSON; "train" prints both for the runs, and again for the means over the seeds. A workdir has runs
of one number of training steps.
"""

import argparse
from pathlib import Path
from typing import Any

from absl import logging

from benchmarks.compiled_step import compile_step
from benchmarks.language_runs import SETTINGS, settings, summarise, train_and_evaluate, unrolled
from benchmarks.results import Results, Row, measure_runs
from benchmarks.timing import report
from mdeq_jax.language.config import Config
from mdeq_jax.language.experiment import create_experiment
from mdeq_jax.training.config import override
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.sections import from_mapping


def train(options: argparse.Namespace) -> None:
    """Print what every run gave, and the means over the seeds."""
    base = _config(options)
    if options.steps is not None:
        base = override(base, {"train.steps": options.steps})
    chosen = {setting: settings(base)[setting] for setting in options.settings}
    rows = measure_runs(options.workdir, base, chosen, options.seeds, train_and_evaluate)
    report("language train", rows)
    report("language means", summarise(rows))


def memory(options: argparse.Namespace) -> None:
    """Print the temporary memory of training steps."""
    base = _config(options)
    results, rows = Results(options.workdir / "memory.jsonl"), []
    for steps in options.solver_steps:
        for method, changes in methods(steps).items():
            config = override(base, changes)
            key = {
                "config": options.config,
                "batch": config.data.batch_size,
                "length": config.data.length,
                "memory": config.model.memory,
                "steps": steps,
                "method": method,
            }
            rows.append(results.find(key, lambda config=config: _compiled(config)))
    report("language memory", rows)


def methods(steps: int) -> dict[str, dict[str, Any]]:
    """Return the keys of each way to train, by its name.

    Args:
      steps: number of solver steps, forward and backward, or of applications.
    """
    plain = {
        "jacobian.probability": 0.0,
        "solver.forward.max_steps": steps,
        "solver.backward.max_steps": steps,
    }
    return {
        "exact": plain,
        "exact, regularised": plain | {"jacobian.probability": 0.3, "jacobian.weight": 1.0},
        "1 phantom step": plain | {"adjoint.name": "phantom", "adjoint.steps": 1},
        "5 phantom steps": plain | {"adjoint.name": "phantom", "adjoint.steps": 5},
        "unrolled": plain | unrolled(steps),
        "unrolled, recomputed": plain | unrolled(steps) | {"model.remat": True},
    }


def _compiled(config: Config) -> Row:
    experiment = create_experiment(config)
    return compile_step(experiment, next(experiment.train_batches()))


def _config(options: argparse.Namespace) -> Config:
    given = {"data.batch_size": options.batch, "data.length": options.length}
    changes = {key: value for key, value in given.items() if value is not None}
    return override(from_mapping(Config(), load_config(options.config)), changes)


def parse() -> argparse.Namespace:
    """Return the options of the command line, with the part to run as `part`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.language",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(required=True)
    for part in (train, memory):
        own = parts.add_parser(part.__name__, help=part.__doc__, description=part.__doc__)
        own.set_defaults(part=part)
        own.add_argument("--workdir", type=Path, required=True, help="folder for the results")
        own.add_argument("--config", default="text_pydoc", help="name of a file in configs")
        own.add_argument("--batch", type=int, help="rows of a batch in place of the config's")
        own.add_argument("--length", type=int, help="tokens of a row in place of the config's")
        if part is train:
            own.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
            own.add_argument("--steps", type=int, help="training steps in place of the config's")
            own.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
        else:
            own.add_argument("--solver-steps", type=int, nargs="+", default=[12, 24])
    return parser.parse_args()


def main() -> None:
    """Parse the command line and run one part."""
    options = parse()
    logging.set_verbosity(logging.WARNING)  # Orbax reports every save
    options.part(options)


if __name__ == "__main__":
    main()
