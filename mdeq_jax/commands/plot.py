"""Draw pictures of a trained model, or of its training.

    python -m mdeq_jax.commands.plot traces --checkpoint runs/digits --output traces.png
    python -m mdeq_jax.commands.plot formation --checkpoint runs/digits --output formation.gif
    python -m mdeq_jax.commands.plot steps --checkpoint runs/digits --output steps.png
    python -m mdeq_jax.commands.plot radius --checkpoint runs/digits --output radius.png
    python -m mdeq_jax.commands.plot curves --workdir runs/digits --output curves.png

All pictures except the last one solve images of the evaluation split under the run's own config.
The last line on stdout is one JSON object.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags

from mdeq_jax.commands import cli
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import solver_traces
from mdeq_jax.training.weights import Trained, read_trained
from mdeq_jax.vision.config import finalize
from mdeq_jax.vision.experiment import create_experiment
from mdeq_jax.viz.curves import plot_curves, read_metrics
from mdeq_jax.viz.formation import animate_formation, observe_formation, plot_formation
from mdeq_jax.viz.image_statistics import (
    first_images,
    observe_images,
    plot_spectral_radius,
    plot_steps_against_confidence,
)
from mdeq_jax.viz.solver_trace import plot_solver_traces


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a picture.

    Attributes:
      output: picture to write.
      checkpoint: a workdir, its best/, or one step's folder.
      workdir: folder of a training run, whose curves are drawn.
      images: most images to solve, at least 1.
      image: index of the image for "formation", from 0.
      iterations: number of products vᵀJ of the power method, at least 1.
      changes: new values for some dotted keys of the run's config.
    """

    output: Path
    checkpoint: str | None
    workdir: str | None
    images: int
    image: int
    iterations: int
    changes: dict[str, object]


def draw_traces(options: Options) -> None:
    """Draw the residuals of the forward and of the adjoint solve against solver steps."""
    trained = _trained(options)
    batch = next(first_images(trained.config.data, options.images))
    traces = solver_traces(create_experiment(trained.config), trained.variables, batch)
    forward, backward = jax.device_get(traces)
    plot_solver_traces(forward, backward, options.output)


def draw_formation(options: Options) -> None:
    """Draw the state of each resolution against solver steps; a .gif is animated."""
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
    """Draw the solver steps of each image against confidence."""
    trained = _trained(options)
    batches = first_images(trained.config.data, options.images)
    images = observe_images(trained.config, trained.variables, batches, radius_iterations=0)
    plot_steps_against_confidence(images, options.output)


def draw_radius(options: Options) -> None:
    """Draw the histogram of the spectral radius of the cell's Jacobian at the equilibria."""
    trained = _trained(options)
    batches = first_images(trained.config.data, options.images)
    images = observe_images(trained.config, trained.variables, batches, options.iterations)
    plot_spectral_radius(images, options.output)


def draw_curves(options: Options) -> None:
    """Draw loss, scores, solver steps and residuals against training steps."""
    if options.workdir is None:
        raise ValueError("--workdir is not given; name the folder of a training.")
    plot_curves(read_metrics(Path(options.workdir) / "metrics.jsonl"), options.output)


_PICTURES: dict[str, Callable[[Options], None]] = {
    "traces": draw_traces,
    "formation": draw_formation,
    "steps": draw_steps,
    "radius": draw_radius,
    "curves": draw_curves,
}


def _trained(options: Options) -> Trained:
    """Return the trained model, with the command line's data and solver in its config."""
    if options.checkpoint is None:
        raise ValueError("--checkpoint is not given; name a workdir or a checkpoint in one.")
    trained = read_trained(options.checkpoint, finalize)
    config = override(trained.config, options.changes)
    create_experiment(config)  # raises if the data do not fit the model
    return trained._replace(config=config)


def main(name: str, options: Options) -> dict[str, str]:
    """Draw a picture by name."""
    if name not in _PICTURES:
        raise ValueError(f"there is no picture {name}; there are {', '.join(_PICTURES)}.")
    _PICTURES[name](options)
    return {"wrote": str(options.output)}


def run() -> None:
    """Run the command under the flags of the process."""
    output = flags.DEFINE_string(
        "output", None, "Picture to write, .png, .svg or .pdf.", required=True
    )
    checkpoint = flags.DEFINE_string("checkpoint", None, cli.CHECKPOINT)
    workdir = flags.DEFINE_string("workdir", None, "curves: folder of a training.")
    images = flags.DEFINE_integer(
        "images", 360, "traces, steps, radius: most images to solve.", lower_bound=1
    )
    image = flags.DEFINE_integer("image", 0, "formation: which image, from 0.", lower_bound=0)
    iterations = flags.DEFINE_integer("iterations", 50, "radius: products vᵀJ.", lower_bound=1)
    max_steps = flags.DEFINE_integer(
        "max-steps", None, "Limit of the forward solve; the run's own by default.", lower_bound=1
    )
    data_dir = flags.DEFINE_string("data-dir", None, "config.data.dir; the run's own by default.")

    def command(name: str) -> dict[str, str]:
        changes = {"solver.forward.max_steps": max_steps.value, "data.dir": data_dir.value}
        options = Options(
            output=Path(output.value),
            checkpoint=checkpoint.value,
            workdir=workdir.value,
            images=images.value,
            image=image.value,
            iterations=iterations.value,
            changes={key: value for key, value in changes.items() if value is not None},
        )
        return main(name, options)

    cli.run(__doc__, command, arguments=("NAME",))


if __name__ == "__main__":
    run()
