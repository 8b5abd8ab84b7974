"""Image files in the form of a generator's images, and a generator's images as pictures."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mdeq_jax.images.decoding import Pixels

# Sides of a comparison's panels are at least this long, so that small images can be seen.
_PANEL = 128


def fit(image: Pixels, size: tuple[int, int]) -> Float[np.ndarray, "H W 1"]:
    """Return any image in the form of a generator's: grey, pixels in [0, 1].

    An image of another size is cut to its middle in the proportions of the size, and scaled.

    Args:
      image: RGB.
      size: height and width of the generator's images.
    """
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    cut = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - cut[0]) // 2, (width - cut[1]) // 2
    middle = image[top : top + cut[0], left : left + cut[1]]
    scaled = cv2.resize(middle, size[::-1], interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2GRAY), np.float32)
    return grey[..., None] / 255


def to_grey(image: Float[np.ndarray, "H W 1"]) -> UInt8[np.ndarray, "H W"]:
    """Return an image as 8-bit grey; pixels outside of [0, 1] are clipped."""
    return np.rint(255 * image[..., 0].clip(0, 1)).astype(np.uint8)


def side_by_side(*images: Float[np.ndarray, "H W 1"]) -> UInt8[np.ndarray, "h w"]:
    """Return images of one size beside each other, enlarged without smoothing."""
    times = -(-_PANEL // min(images[0].shape[:2]))
    return np.hstack([to_grey(image).repeat(times, 0).repeat(times, 1) for image in images])
