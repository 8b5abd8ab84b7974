"""The images that a generator is trained and evaluated on: float32, pixels in [0, 1]."""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float

from mdeq_jax.images import digits
from mdeq_jax.inverse.generation.config import DataConfig

Images = Float[np.ndarray, "N H W 1"]
_SHAPES_SIZE = (16, 16)
# Shapes are drawn at this multiple of their size and averaged, so that their edges are smooth.
_SUPERSAMPLING = 8


def image_size(data: DataConfig) -> tuple[int, int]:
    """Return height and width of the images."""
    return digits.SIZE if data.images == "digits" else _SHAPES_SIZE


def load_images(data: DataConfig, split: Literal["train", "test"]) -> Images:
    """Return the images of a split."""
    if data.images == "digits":
        raw = digits.load_raw()
        return raw.scaled[raw.rows[split]]
    if split == "train":
        return np.stack([draw_shape(0, number) for number in range(data.shapes)])
    return np.stack([draw_shape(1, number) for number in range(data.shapes // 4)])


def draw_shape(seed: int, number: int) -> Float[np.ndarray, "16 16 1"]:
    """Return an image of one white ellipse or rectangle on black, the same at each call.

    Args:
      seed: seed of a set of images, at least 0.
      number: number of the image, at least 0.
    """
    generator = np.random.default_rng((seed, number))
    side = _SHAPES_SIZE[0] * _SUPERSAMPLING
    centre = generator.uniform(0.3, 0.7, 2) * side
    size = generator.uniform(0.25, 0.6, 2) * side
    box = (centre.tolist(), size.tolist(), generator.uniform(0, 180))
    canvas = np.zeros((side, side), np.float32)
    if generator.random() < 0.5:
        cv2.ellipse(canvas, box, 1.0, thickness=-1)
    else:
        cv2.fillPoly(canvas, [np.rint(cv2.boxPoints(box)).astype(np.int32)], 1.0)
    return cv2.resize(canvas, _SHAPES_SIZE, interpolation=cv2.INTER_AREA)[..., None]
