"""Statistics of single images: solver steps, confidence and spectral radius."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from mdeq_jax.layers.resize import resize_bilinear
from mdeq_jax.stability import spectral_radius
from mdeq_jax.training.experiment import HostBatch
from mdeq_jax.vision.config import IGNORE, Config, DataConfig
from mdeq_jax.vision.data import eval_batches, find_dataset
from mdeq_jax.vision.model import create_model
from mdeq_jax.viz.style import BLUE, ORANGE, finish, new_figure, save

# A probability that rounds to 1 has no place on a logit axis.
_MOST_CONFIDENT = 1 - 1e-6
_TICKS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, _MOST_CONFIDENT)
_JITTER = 0.18


class ImageStatistics(NamedTuple):
    """One number per image.

    Attributes:
      steps: solver steps of the forward solve.
      confidence: probability of the predicted class; in segmentation, its mean over the pixels.
      right: whether the predicted class is right; in segmentation, for most pixels.
      spectral_radius: spectral radius of the cell's Jacobian at the equilibrium.
    """

    steps: Int[np.ndarray, " images"]
    confidence: Float[np.ndarray, " images"]
    right: Bool[np.ndarray, " images"]
    spectral_radius: Float[np.ndarray, " images"]


def first_images(data: DataConfig, count: int) -> Iterator[HostBatch]:
    """Yield the first images of the evaluation split, at most `count` of them, normalised."""
    normalise = find_dataset(data).normalise
    for batch in eval_batches(data):
        kept = np.flatnonzero(batch["mask"])[:count]
        rows = {name: rows[kept] for name, rows in batch.items()}
        yield {**rows, "image": normalise(rows["image"])}
        count -= len(kept)
        if count == 0:
            return


def observe_images(
    config: Config, variables: PyTree, batches: Iterator[HostBatch], radius_iterations: int
) -> ImageStatistics:
    """Solve some images and return their statistics.

    Args:
      config: config with the model and the forward solver.
      variables: variables of the model.
      batches: batches from `first_images`.
      radius_iterations: number of products with the Jacobian for the spectral radius; with 0, the
        radius is 0.
    """
    model = create_model(config.model, dtype=config.compute_dtype)
    solver = config.solver.forward.build()

    @jax.jit
    def run(variables: PyTree, batch: dict[str, Array]) -> tuple[Array, ...]:
        output: Any = model.apply(variables, batch["image"], solver=solver)
        logits, info = output
        if isinstance(logits, dict):
            logits = logits[config.model.task]
        confidence, right = agreement(logits, batch["label"])
        radius = jnp.zeros_like(confidence)
        if radius_iterations:
            key = jax.random.key(0)
            found = info.solution
            radius = spectral_radius(found.f, found.z, found.args, key, radius_iterations)
        return info.solver.steps, confidence, right, radius

    parts = [jax.device_get(run(variables, batch)) for batch in batches]
    return ImageStatistics(*(np.concatenate(rows) for rows in zip(*parts, strict=True)))


def agreement(
    logits: Float[Array, "B *hw num_classes"], labels: Int[Array, "B *HW"]
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """Return `ImageStatistics.confidence` and `ImageStatistics.right` of each image."""
    if labels.ndim > 1:
        logits = resize_bilinear(logits, labels.shape[1:])
    counts = labels != IGNORE
    pixels = tuple(range(1, labels.ndim))
    confidence = jax.nn.softmax(logits).max(-1).mean(pixels, where=counts)
    return confidence, (logits.argmax(-1) == labels).mean(pixels, where=counts) > 0.5


def plot_steps_against_confidence(images: ImageStatistics, path: Path) -> None:
    """Draw a point per image; colour and shape show whether its prediction is right.

    Args:
      images: statistics from `observe_images`.
      path: path of the picture to write.
    """
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    # Steps are integers; points that coincide are moved a little, so that all are visible.
    jitter = np.random.default_rng(0).uniform(-_JITTER, _JITTER, len(images.steps))
    confidence = np.minimum(images.confidence, _MOST_CONFIDENT)
    for right, colour, marker, label in ((True, BLUE, "o", "right"), (False, ORANGE, "X", "wrong")):
        chosen = images.right == right
        axes.scatter(
            confidence[chosen],
            (images.steps + jitter)[chosen],
            s=14 if right else 60,
            color=colour,
            alpha=0.5 if right else 1,
            marker=marker,
            label=f"{label} ({chosen.sum()})",
        )
    axes.set_xscale("logit")
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.8g} %")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    title = "Solver steps of each image against confidence"
    finish(axes, title, x="probability of the predicted class", y="solver steps")
    axes.legend()
    save(figure, path)


def plot_spectral_radius(images: ImageStatistics, path: Path) -> None:
    """Draw the histogram, with the bound below which plain iteration converges.

    Args:
      images: statistics from `observe_images`.
      path: path of the picture to write.
    """
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    radius = images.spectral_radius
    axes.set_axisbelow(True)
    axes.hist(radius, bins="auto", color=BLUE, edgecolor="white")
    axes.axvline(float(np.median(radius)), color="black", label=f"median {np.median(radius):.2f}")
    axes.axvline(1, color=ORANGE, linestyle="--", label="1: below it plain iteration converges")
    title = f"Spectral radius of the cell at the equilibrium of {len(radius)} images"
    finish(axes, title, x="max |eigenvalue of ∂f/∂z|", y="images")
    axes.legend()
    save(figure, path)
