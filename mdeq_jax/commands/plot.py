"""Draw pictures of a trained model, or of its training.

    python -m mdeq_jax.commands.plot traces --checkpoint runs/digits --output traces.png
    python -m mdeq_jax.commands.plot formation --checkpoint runs/digits --output formation.gif
    python -m mdeq_jax.commands.plot steps --checkpoint runs/digits --output steps.png
    python -m mdeq_jax.commands.plot radius --checkpoint runs/digits --output radius.png
    python -m mdeq_jax.commands.plot curves --workdir runs/digits --output curves.png

All pictures except the last one solve images of the evaluation split under the run's own config.
The last line on stdout is one JSON object.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
from absl import flags

from mdeq_jax.commands import cli
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import solver_traces
from mdeq_jax.training.weights import Trained, read_trained
from mdeq_jax.vision.config import Config, finalize
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

PICTURES = ("traces", "formation", "steps", "radius", "curves")


def draw_traces(trained: Trained[Config], output: Path, count: int) -> None:
    """Draw the residuals of the forward and of the adjoint solve of the first `count` images."""
    batch = next(first_images(trained.config.data, count))
    traces = solver_traces(create_experiment(trained.config), trained.variables, batch)
    forward, backward = jax.device_get(traces)
    plot_solver_traces(forward, backward, output)


def draw_formation(trained: Trained[Config], output: Path, index: int) -> None:
    """Draw the state of each resolution against the steps of one image; a .gif is animated."""
    batches = first_images(trained.config.data, index + 1)
    images = [image for batch in batches for image in batch["image"]]
    if index >= len(images):
        raise ValueError(f"--image is {index}, but images are 0 to {len(images) - 1}.")
    formation = observe_formation(trained.config, trained.variables, images[index])
    plot = animate_formation if output.suffix == ".gif" else plot_formation
    plot(formation, output)


def draw_steps(trained: Trained[Config], output: Path, count: int) -> None:
    """Draw the solver steps of the first `count` images against confidence."""
    batches = first_images(trained.config.data, count)
    images = observe_images(trained.config, trained.variables, batches, radius_iterations=0)
    plot_steps_against_confidence(images, output)


def draw_radius(trained: Trained[Config], output: Path, count: int, iterations: int) -> None:
    """Draw the histogram of the spectral radius at the equilibria of the first `count` images."""
    batches = first_images(trained.config.data, count)
    images = observe_images(trained.config, trained.variables, batches, iterations)
    plot_spectral_radius(images, output)


def draw_curves(workdir: str | None, output: Path) -> None:
    """Draw loss, scores, solver steps and residuals of a training run against its steps."""
    if workdir is None:
        raise ValueError("--workdir is not given; name the folder of a training.")
    plot_curves(read_metrics(Path(workdir) / "metrics.jsonl"), output)


def load(checkpoint: str | None, changes: Mapping[str, object]) -> Trained[Config]:
    """Return the trained model of a checkpoint, with some values of its config changed.

    Args:
      checkpoint: a workdir, its best/, or one step's folder.
      changes: values by dotted key; None keeps the run's own.
    """
    if checkpoint is None:
        raise ValueError("--checkpoint is not given; name a workdir or a checkpoint in one.")
    trained = read_trained(checkpoint, finalize)
    given = {key: value for key, value in changes.items() if value is not None}
    config = override(trained.config, given)
    create_experiment(config)  # raises if the data do not fit the model
    return trained._replace(config=config)


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
        path = Path(output.value)
        if name not in PICTURES:
            raise ValueError(f"there is no picture {name}; there are {', '.join(PICTURES)}.")
        if name == "curves":
            draw_curves(workdir.value, path)
            return {"wrote": str(path)}
        changes = {"solver.forward.max_steps": max_steps.value, "data.dir": data_dir.value}
        trained = load(checkpoint.value, changes)
        if name == "traces":
            draw_traces(trained, path, images.value)
        elif name == "formation":
            draw_formation(trained, path, image.value)
        elif name == "steps":
            draw_steps(trained, path, images.value)
        else:
            draw_radius(trained, path, images.value, iterations.value)
        return {"wrote": str(path)}

    cli.run(__doc__, command, arguments=("NAME",))


if __name__ == "__main__":
    run()
