"""Draw pictures of a trained model, or of the course of its training.

    python -m mdeq_jax.commands.plot traces --checkpoint runs/digits --output traces.png
    python -m mdeq_jax.commands.plot formation --checkpoint runs/digits --output formation.gif
    python -m mdeq_jax.commands.plot steps --checkpoint runs/digits --output steps.png
    python -m mdeq_jax.commands.plot radius --checkpoint runs/digits --output radius.png
    python -m mdeq_jax.commands.plot curves --workdir runs/digits --output curves.png

All but the last solve images of the evaluation split, as the run's own config has them.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from mdeq_jax.runtime.compilation import convolve_on_all_cores, keep_compiled_programs
from mdeq_jax.training.evaluation import solver_traces
from mdeq_jax.vision.experiment import create_experiment
from mdeq_jax.vision.load import Trained, load_trained
from mdeq_jax.viz.curves import plot_curves, read_metrics
from mdeq_jax.viz.formation import animate_formation, observe_formation, plot_formation
from mdeq_jax.viz.image_statistics import (
    first_images,
    observe_images,
    plot_spectral_radius,
    plot_steps_against_confidence,
)
from mdeq_jax.viz.solver_trace import plot_solver_traces

Options = argparse.Namespace


def draw_traces(options: Options) -> None:
    """Residuals of the forward and of the adjoint solve against solver steps."""
    trained = _trained(options)
    batch = next(first_images(trained.config.data, options.images))
    traces = solver_traces(create_experiment(trained.config), trained.variables, batch)
    plot_solver_traces(*jax.device_get(traces), options.output)


def draw_formation(options: Options) -> None:
    """The state of each resolution against solver steps; a .gif is animated."""
    trained = _trained(options)
    images = [
        image
        for batch in first_images(trained.config.data, options.image + 1)
        for image in batch["image"]
    ]
    if options.image >= len(images):
        raise ValueError(f"--image is {options.image}, but images are 0 to {len(images) - 1}.")
    formation = observe_formation(trained.config, trained.variables, images[options.image])
    plot = animate_formation if options.output.suffix == ".gif" else plot_formation
    plot(formation, options.output)


def draw_steps(options: Options) -> None:
    """Solver steps of each image against confidence."""
    trained = _trained(options)
    batches = first_images(trained.config.data, options.images)
    images = observe_images(trained.config, trained.variables, batches, radius_iterations=0)
    plot_steps_against_confidence(images, options.output)


def draw_radius(options: Options) -> None:
    """Histogram of the spectral radius of the cell's Jacobian at the equilibria."""
    trained = _trained(options)
    batches = first_images(trained.config.data, options.images)
    images = observe_images(trained.config, trained.variables, batches, options.iterations)
    plot_spectral_radius(images, options.output)


def draw_curves(options: Options) -> None:
    """Loss, scores, solver steps and residuals against training steps."""
    plot_curves(read_metrics(options.workdir / "metrics.jsonl"), options.output)


def _trained(options: Options) -> Trained:
    """The checkpoint, with what the command line says of data and solver in its config."""
    trained = load_trained(options.checkpoint)
    config = trained.config
    if options.max_steps is not None:
        forward = dataclasses.replace(config.solver.forward, max_steps=options.max_steps)
        solver = dataclasses.replace(config.solver, forward=forward)
        config = dataclasses.replace(config, solver=solver)
    if options.data_dir is not None:
        data = dataclasses.replace(config.data, dir=options.data_dir)
        config = dataclasses.replace(config, data=data)
    create_experiment(config)  # it refuses data that do not fit the model
    return trained._replace(config=config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mdeq_jax.commands.plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="NAME")

    def add(name: str, draw: Callable[[Options], None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=draw.__doc__, description=draw.__doc__)
        command.set_defaults(draw=draw)
        help_text = "picture to write, .png, .svg or .pdf"
        command.add_argument("--output", type=Path, required=True, metavar="FILE", help=help_text)
        return command

    of_images = [add("traces", draw_traces), add("steps", draw_steps), add("radius", draw_radius)]
    formation = add("formation", draw_formation)
    for command in (*of_images, formation):
        _add_model_options(command)
    for command in of_images:
        command.add_argument("--images", type=_count, default=360, help="at most (360)")
    formation.add_argument("--image", type=int, default=0, help="which, from 0 (0)")
    of_images[-1].add_argument("--iterations", type=_count, default=50, help="products vᵀJ (50)")
    curves = add("curves", draw_curves)
    curves.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="of training")
    return parser


def _add_model_options(command: argparse.ArgumentParser) -> None:
    where = "a workdir (its newest checkpoint), its best/, or one step's folder"
    command.add_argument("--checkpoint", required=True, metavar="DIR", help=where)
    limit = "of the forward solve; the run's own by default"
    command.add_argument("--max-steps", type=_count, help=limit)
    command.add_argument("--data-dir", metavar="DIR", help="config.data.dir; the run's by default")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the picture that the command line asks for; returns the exit code."""
    options = _parser().parse_args(argv)
    convolve_on_all_cores()
    keep_compiled_programs()
    try:
        options.draw(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
