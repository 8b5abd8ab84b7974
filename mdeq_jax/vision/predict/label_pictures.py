"""Pictures of label maps."""

import colorsys

import numpy as np
from jaxtyping import Int, UInt8

# Neighbouring hues differ in brightness.
_BRIGHTNESS = (1.0, 0.65)
_SATURATION = 0.8


def palette(num_classes: int) -> UInt8[np.ndarray, "num_classes 3"]:
    """Return a colour for each class, all distinct: black, by custom the background, and hues.

    Args:
      num_classes: number of classes, in [1, 254].
    """
    hues = [
        colorsys.hsv_to_rgb(k / (num_classes - 1), _SATURATION, _BRIGHTNESS[k % 2])
        for k in range(num_classes - 1)
    ]
    return np.round(255 * np.array([(0.0, 0.0, 0.0), *hues])).astype(np.uint8)


def overlay(
    image: UInt8[np.ndarray, "H W 3"],
    labels: Int[np.ndarray, "H W"],
    colours: UInt8[np.ndarray, "num_classes 3"],
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "H W 3"]:
    """Return an image under the colours of its labels.

    Args:
      image: the image, RGB.
      labels: class of each pixel, in [0, num_classes).
      colours: colour of each class, as `palette` returns them.
      opacity: opacity of the colours, in [0, 1].
    """
    mixed = (1 - opacity) * image + opacity * colours[labels]
    return np.round(mixed).astype(np.uint8)
