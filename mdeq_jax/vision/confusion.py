"""The confusion matrix of label maps, and the metrics that follow from it."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mdeq_jax.vision.config import IGNORE


def confusion_matrix(
    labels: Int[Array, "B H W"], predictions: Int[Array, "B H W"], num_classes: int
) -> Int[Array, "num_classes num_classes"]:
    """Return the number of pixels of each label (row) and prediction (column).

    Counts are integers, because sums in float32 lose single pixels above 2²⁴, the number of pixels
    in eight images of Cityscapes. Sum them in 64 bits over many batches.

    Args:
      labels: class of each pixel, in [0, num_classes), or IGNORE, which is not counted.
      predictions: predicted class of each pixel, in [0, num_classes).
      num_classes: number of classes.
    """
    cells = num_classes * num_classes
    labels = labels.astype(jnp.int32)
    cell = jnp.where(labels == IGNORE, cells, labels * num_classes + predictions)
    counts = jnp.zeros(cells, jnp.int32).at[cell.ravel()].add(1, mode="drop")
    return counts.reshape(num_classes, num_classes)


def segmentation_metrics(
    confusion: Int[np.ndarray, "num_classes num_classes"], class_names: Sequence[str]
) -> dict[str, float]:
    """Return the metrics that follow from a confusion matrix.

    Intersection over union of class k is n_kk / (Σ_j n_kj + Σ_i n_ik − n_kk). A class that is
    neither in the labels nor predicted has none (NaN), and is left out of the mean; a class without
    labels is left out of the mean accuracy.

    Args:
      confusion: labels by row, predictions by column.
      class_names: name of each class, in the order of the rows.

    Returns:
      ``miou``, ``pixel_accuracy``, ``mean_accuracy``, all NaN if no pixel counts, and ``iou/NAME``
      for each class.
    """
    right = np.diag(confusion).astype(np.float64)
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    iou = _ratio(right, labelled + predicted - right)
    return {
        "miou": _mean(iou),
        "pixel_accuracy": float(_ratio(right.sum(), confusion.sum())),
        "mean_accuracy": _mean(_ratio(right, labelled)),
        **{f"iou/{name}": float(value) for name, value in zip(class_names, iou, strict=True)},
    }


def _ratio(part: np.ndarray | np.number, whole: np.ndarray | np.number) -> np.ndarray:
    """Return part / whole, NaN where whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else float("nan")
