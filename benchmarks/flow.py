"""Measure what DEQ-Flow claims: memory, correction, more steps, warm starts; and a stereo pair.

    python -m benchmarks.flow memory --workdir runs/flow --model base --crop 96 128 --batch 1
    python -m benchmarks.flow train --workdir runs/flow --seeds 0 1 2
    python -m benchmarks.flow film --checkpoint runs/flow/equilibrium_0
    python -m benchmarks.flow stereo --checkpoint runs/flow/equilibrium_0

"memory" compiles training steps and runs none. "train" trains with correction, without it, and as
the recurrent RAFT of the same cell, each from every seed. Both write their results to the workdir,
where the same command continues. "film" counts solver steps from cold and warm starts, "stereo"
computes errors on scikit-image's stereo pair. Every part prints a table and one line of JSON.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from absl import logging

from benchmarks.flow_memory import measure_memory
from benchmarks.flow_settings import SETTINGS, settings, summarise, train_and_evaluate
from benchmarks.flow_streams import errors_of_stereo, steps_of_films
from benchmarks.results import Results, Row, measure_runs
from benchmarks.timing import report
from mdeq_jax import applications
from mdeq_jax.flow.config import Config
from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.runtime.compilation import convolve_on_all_cores
from mdeq_jax.training.config import override
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.sections import from_mapping


def memory(options: argparse.Namespace) -> list[Row]:
    """Return the temporary memory of training steps."""
    config = _config(options.config)
    if options.model is not None:
        config = dataclasses.replace(config, model=ModelConfig.published(options.model))
    given = {"data.crop": options.crop and tuple(options.crop), "data.batch_size": options.batch}
    config = override(config, {key: value for key, value in given.items() if value is not None})
    return measure_memory(Results(options.workdir / "memory.jsonl"), config, options.steps)


def train(options: argparse.Namespace) -> list[Row]:
    """Return means over the seeds of every setting."""
    base = _config(options.config)
    if options.steps is not None:
        base = override(base, {"train.steps": options.steps})
    chosen = {setting: settings(base)[setting] for setting in options.settings}
    rows = measure_runs(options.workdir, base, chosen, options.seeds, train_and_evaluate)
    return summarise(rows)


def film(options: argparse.Namespace) -> list[Row]:
    """Return the solver steps from cold and warm starts."""
    rows = steps_of_films(
        applications.load_trained_as("flow", options.checkpoint),
        options.tolerances,
        films=options.films,
        frames=options.frames,
        max_steps=options.max_steps,
    )
    return list(rows)


def stereo(options: argparse.Namespace) -> list[Row]:
    """Return the errors on the stereo pair."""
    trained = applications.load_trained_as("flow", options.checkpoint)
    return list(errors_of_stereo(trained, options.widths, options.max_steps))


def _config(name: str) -> Config:
    return from_mapping(Config(), load_config(name))


def parse() -> argparse.Namespace:
    """Return the options of the command line, with the part to run as `part`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flow",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(required=True)

    def add(part: Callable[[argparse.Namespace], list[Row]]) -> argparse.ArgumentParser:
        own = parts.add_parser(part.__name__, help=part.__doc__, description=part.__doc__)
        own.set_defaults(part=part)
        return own

    for part in (memory, train):
        own = add(part)
        own.add_argument("--workdir", type=Path, required=True, help="folder for the results")
        own.add_argument("--config", default="flow_shapes", help="name of a file in configs")
        if part is memory:
            own.add_argument("--model", help="a published model in place of the config's")
            own.add_argument("--crop", type=int, nargs=2, help="height and width")
            own.add_argument("--batch", type=int, help="pairs of images")
            own.add_argument("--steps", type=int, nargs="+", default=[12, 36])
        else:
            own.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
            own.add_argument("--steps", type=int, help="training steps in place of the config's")
            own.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    for part in (film, stereo):
        own = add(part)
        own.add_argument("--checkpoint", type=Path, required=True, help="workdir of a run")
        own.add_argument("--max-steps", type=int, default=100, help="most solver steps (100)")
        if part is film:
            own.add_argument("--tolerances", type=float, nargs="+", default=[1e-1, 1e-2, 1e-3])
            own.add_argument("--films", type=int, default=5, help="number of films (5)")
            own.add_argument("--frames", type=int, default=20, help="frames of a film (20)")
        else:
            own.add_argument("--widths", type=int, nargs="+", default=[64, 96, 128])
    return parser.parse_args()


def main() -> None:
    """Parse the command line, run one part and print its table."""
    options = parse()
    logging.set_verbosity(logging.WARNING)  # Orbax reports every save
    convolve_on_all_cores()
    report(f"flow {options.part.__name__}", options.part(options))


if __name__ == "__main__":
    main()
