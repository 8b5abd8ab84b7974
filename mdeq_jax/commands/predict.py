"""Predict your own images with a trained model.

    python -m mdeq_jax.commands.predict --config configs/digit_scenes.py \\
        --checkpoint runs/digit_scenes --input photos --output predictions

A segmentation model writes OUTPUT/colour, OUTPUT/overlay and OUTPUT/ids, PNG files with the names
of the images. OUTPUT/ids holds class numbers; for Cityscapes it holds the ids of its label files,
which its evaluation server expects. A classifier writes OUTPUT/top5.csv. OUTPUT/solver.csv has the
solver steps of each image. With --warm-start, each image starts from the equilibrium of the
previous one, for frames of a film in the order of their paths. The last line on stdout is one JSON
object.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging

from mdeq_jax.applications import load_trained
from mdeq_jax.commands import cli
from mdeq_jax.commands.tables import Table
from mdeq_jax.images.files import find_images, read_image
from mdeq_jax.training.reader import BadRecordError
from mdeq_jax.training.weights import Trained
from mdeq_jax.vision.config import Config, finalize
from mdeq_jax.vision.data.cityscapes_labels import LABEL_IDS, PALETTE
from mdeq_jax.vision.experiment import VisionExperiment, create_experiment
from mdeq_jax.vision.predict.images import model_input
from mdeq_jax.vision.predict.label_pictures import palette
from mdeq_jax.vision.predict.outputs import top_columns, top_row, write_label_map
from mdeq_jax.vision.predict.predictor import FramePredictor, Predictor

_SOLVER_COLUMNS = (
    "image",
    "solver_steps",
    "residual",
    "converged",
    "spectral_radius",
    "cold_solver_steps",
)


def main(
    config: Config,
    checkpoint: str,
    inputs: Sequence[str],
    output: Path,
    make_predictor: Callable[[Trained, VisionExperiment], Callable[..., Any]],
) -> dict[str, Any]:
    """Predict all images that can be read, then raise ValueError with the names of the others.

    Args:
      config: config with data and solver; its architecture must equal the checkpoint's.
      checkpoint: a workdir, its best/, or one step's folder.
      inputs: images and folders of images.
      output: folder for the predictions.
      make_predictor: `Predictor` or `FramePredictor`.
    """
    started = time.monotonic()
    images, experiment = find_images(inputs, output), create_experiment(config)
    dataset = experiment.dataset
    trained = load_trained(checkpoint, expected=config)
    predictor = make_predictor(trained, experiment)
    output.mkdir(parents=True, exist_ok=True)
    task = config.model.task
    if task == "classification":
        write = _table_writer(dataset.class_names, output)
    else:
        write = _label_map_writer(config, output)
    solver_table = Table(output / "solver.csv", _SOLVER_COLUMNS)
    rows, unread = [], []
    for name, path in images.items():
        try:
            image = read_image(path)
        except BadRecordError as error:
            logging.warning("left out: %s", error)
            unread.append(str(error))
            continue
        prediction = predictor(model_input(image, task, dataset))
        write(name, image, prediction.output)
        solver_table.add({"image": name, **prediction.statistics})
        rows.append(prediction.statistics)
    if unread:
        raise ValueError(
            f"{len(unread)} of {len(images)} images could not be read: {'; '.join(unread)} "
            f"The predictions of the others are in {output}."
        )
    return {**_summary(rows), "wall_s": round(time.monotonic() - started, 2)}


def _label_map_writer(
    config: Config, folder: Path
) -> Callable[[str, np.ndarray, np.ndarray], None]:
    """Return a function of (name, image, labels) that writes label maps."""
    num_classes = config.model.num_classes
    ids, colours = np.arange(num_classes, dtype=np.uint8), palette(num_classes)
    if config.data.name == "cityscapes":
        ids, colours = LABEL_IDS, PALETTE
    return lambda name, image, labels: write_label_map(folder, name, image, labels, ids, colours)


def _table_writer(
    class_names: Sequence[str], folder: Path
) -> Callable[[str, np.ndarray, np.ndarray], None]:
    """Return a function of (name, image, logits) that writes a row of the table."""
    table = Table(folder / "top5.csv", top_columns(len(class_names)))
    return lambda name, _, logits: table.add(top_row(name, logits, class_names))


def _summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the means over all images, and the steps saved on the frames after the first."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    later = rows[1:]
    if later and "cold_solver_steps" in means:
        saved = [row["cold_solver_steps"] - row["solver_steps"] for row in later]
        means["steps_saved"] = float(np.mean(saved))
    return {"images": len(rows), **means}


def run() -> None:
    """Run the command under the flags of the process."""
    config = cli.ConfigFlag(finalize)
    checkpoint = flags.DEFINE_string("checkpoint", None, cli.CHECKPOINT, required=True)
    inputs = flags.DEFINE_multi_string(
        "input", None, "An image or a folder of images; may be given several times.", required=True
    )
    output = flags.DEFINE_string("output", None, "Folder for the predictions.", required=True)
    warm_start = flags.DEFINE_boolean(
        "warm-start", False, "Solve each image from the equilibrium of the one before."
    )
    compare = flags.DEFINE_boolean(
        "compare", True, "With --warm-start, solve from a cold start too, to count the steps saved."
    )

    def make_predictor(
        trained: Trained, experiment: VisionExperiment
    ) -> Predictor | FramePredictor:
        if warm_start.value:
            return FramePredictor(trained, experiment, compare=compare.value)
        return Predictor(trained, experiment)

    cli.run(
        __doc__,
        lambda: main(
            config.value, checkpoint.value, inputs.value, Path(output.value), make_predictor
        ),
    )


if __name__ == "__main__":
    run()
