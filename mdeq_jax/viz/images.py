"""What the images of a data set tell of a model: solver steps, confidence, spectral radius."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from mdeq_jax.viz.style import BLUE, ORANGE, finish, new_figure, save

# A probability that rounds to 1 has no place on a logit axis.
_MOST_CONFIDENT = 1 - 1e-6
_TICKS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, _MOST_CONFIDENT)
_JITTER = 0.18


class ImageStatistics(NamedTuple):
    """One number per image.

    Attributes:
      steps: of the forward solve.
      confidence: probability of the predicted class, the mean over pixels in segmentation.
      right: whether the class is right; in segmentation, whether that of most pixels is.
      spectral_radius: of the cell's Jacobian at the equilibrium.
    """

    steps: Int[np.ndarray, " images"]
    confidence: Float[np.ndarray, " images"]
    right: Bool[np.ndarray, " images"]
    spectral_radius: Float[np.ndarray, " images"]


def plot_steps_against_confidence(images: ImageStatistics, path: Path) -> None:
    """Draw a point per image, those predicted right and wrong apart by colour and shape.

    Args:
      images: as observed.
      path: of the picture to write.
    """
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    # Steps are whole numbers; moved a little, points that coincide are seen.
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
      images: as observed.
      path: of the picture to write.
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
