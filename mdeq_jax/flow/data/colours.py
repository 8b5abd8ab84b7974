"""Change the colours of images, and hide parts of one.

Source: `core/utils/augmentor.py`, locuslab/deq-flow, and `ColorJitter` of torchvision.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from mdeq_jax.images.decoding import Pixels

_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


class Jitter(NamedTuple):
    """The largest changes of an image's colours.

    Attributes:
      brightness: the factor is uniform in [max(0, 1 − brightness), 1 + brightness]; at least 0.
      contrast: the factor is uniform in [max(0, 1 − contrast), 1 + contrast]; at least 0.
      saturation: the factor is uniform in [max(0, 1 − saturation), 1 + saturation]; at least 0.
      hue: the turn is uniform in [−hue, hue]; in [0, 0.5], where 1 is a full turn.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0


def colour_jitter(image: Pixels, jitter: Jitter, generator: np.random.Generator) -> Pixels:
    """Change brightness, contrast, saturation and hue in random order.

    A factor a of the first three makes image · a + other · (1 − a), where the other image is black,
    the mean grey, or the image in grey. A change of strength 0 is left out.

    Args:
      image: uint8 (H, W, 3), RGB.
      jitter: the strengths.
      generator: source of the random numbers.
    """
    picture = Image.fromarray(image)
    for kind in generator.permutation(len(jitter)):
        strength = jitter[kind]
        if not strength:
            continue
        if kind < len(_ENHANCERS):
            factor = generator.uniform(max(0.0, 1 - strength), 1 + strength)
            picture = _ENHANCERS[kind](picture).enhance(factor)
        else:
            picture = _with_hue_turned(picture, generator.uniform(-strength, strength))
    return np.asarray(picture)


def erase(
    image: Pixels, boxes: int, sides: tuple[int, int], generator: np.random.Generator
) -> Pixels:
    """Return an image with boxes of its mean colour, as if something covered it there.

    Args:
      image: uint8 (H, W, 3).
      boxes: number of boxes.
      sides: shortest and longest side of a box, in pixels. A box may reach over the image's edges
        at the right and at the bottom.
      generator: source of places and sides.
    """
    erased = image.copy()
    for _ in range(boxes):
        top, left = generator.integers(image.shape[:2])
        height, width = generator.integers(*sides, size=2, endpoint=True)
        erased[top : top + height, left : left + width] = image.mean(axis=(0, 1))
    return erased


def _with_hue_turned(picture: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(step + round(255 * turn)) % 256 for step in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
