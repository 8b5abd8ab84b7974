"""Predictions as files, each written as soon as its image is predicted."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mdeq_jax.vision.predict.label_pictures import overlay

_TOP = 5


def write_label_map(
    folder: Path,
    name: str,
    image: UInt8[np.ndarray, "H W 3"],
    labels: UInt8[np.ndarray, "H W"],
    ids: UInt8[np.ndarray, " num_classes"],
    colours: UInt8[np.ndarray, "num_classes 3"],
) -> None:
    """Write NAME.png into ``ids``, ``colour`` and ``overlay`` of a folder.

    Args:
      folder: folder of all predictions.
      name: name of the image, which may contain folders.
      image: the image, RGB.
      labels: class of each pixel.
      ids: number written into ``ids`` for each class.
      colours: colour of each class, RGB.
    """
    pictures = {
        "ids": ids[labels],
        "colour": colours[labels][..., ::-1],  # OpenCV writes blue first
        "overlay": overlay(image, labels, colours)[..., ::-1],
    }
    for kind, picture in pictures.items():
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), picture):
            raise OSError(f"cannot write {path}; use another --output.")


def top_columns(num_classes: int) -> list[str]:
    """Return the columns of a classifier's table."""
    ranks = range(1, min(_TOP, num_classes) + 1)
    return ["image", *(f"{kind}_{rank}" for rank in ranks for kind in ("class", "probability"))]


def top_row(
    name: str, logits: Float[np.ndarray, " num_classes"], class_names: Sequence[str]
) -> dict[str, str]:
    """Return a row of a classifier's table: the likeliest classes and their probabilities.

    Args:
      name: name of the image.
      logits: logits of the image.
      class_names: name of each class.
    """
    weights = np.exp(logits - logits.max())
    order = map(int, np.argsort(-logits, kind="stable")[:_TOP])
    row = {"image": name}
    for rank, k in enumerate(order, start=1):
        row[f"class_{rank}"] = class_names[k]
        row[f"probability_{rank}"] = f"{weights[k] / weights.sum():.6f}"
    return row
