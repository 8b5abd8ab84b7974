"""What hides an image: noise, and a box of hidden pixels, drawn from a seed and a number."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Corruption(NamedTuple):
    """The corruption of one image.

    Attributes:
      noise: standard normal, float32; a noisy image is image + σ · noise.
      visible: float32, 0 in the box and 1 elsewhere; an image with a hidden box is
        image · visible, so that the box is black.
    """

    noise: Float[np.ndarray, "H W C"]
    visible: Float[np.ndarray, "H W 1"]


def draw_corruption(
    seed: int, number: int, shape: tuple[int, int, int], box: tuple[int, int]
) -> Corruption:
    """Return the corruption of an image, the same at each call.

    Args:
      seed: seed of all images' corruptions, at least 0.
      number: number of the image, at least 0.
      shape: height, width and channels of the image.
      box: height and width of the hidden box, at least 1; its place is uniform within the image.

    Raises:
      ValueError: the box is higher or wider than the image.
    """
    if not all(0 < part <= whole for part, whole in zip(box, shape[:2], strict=True)):
        raise ValueError(
            f"the hidden box is {box[0]}×{box[1]}, but the images are {shape[0]}×{shape[1]}; "
            "choose sides from 1 to the image's."
        )
    generator = np.random.default_rng((seed, number))
    noise = generator.standard_normal(shape, np.float32)
    top, left = (
        generator.integers(whole - part + 1) for part, whole in zip(box, shape[:2], strict=True)
    )
    visible = np.ones((*shape[:2], 1), np.float32)
    visible[top : top + box[0], left : left + box[1]] = 0
    return Corruption(noise, visible)
