"""Images from the bytes of a file, RGB whatever the colours in it."""

import io

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from mdeq_jax.data.dataset import Pixels, Size


class BadRecordError(ValueError):
    """An example cannot be read.

    Attributes:
      name: of the example, its file or its record.
    """

    def __init__(self, name: str, problem: str):
        """Say what is wrong with an example.

        Args:
          name: of the example.
          problem: what follows the name in the message.
        """
        super().__init__(name, problem)
        self.name, self._problem = name, problem

    def __str__(self) -> str:
        """Return the message."""
        return f"{self.name} {self._problem}"


def decode(encoded: bytes, name: str, at_least: Size | None = None) -> Pixels:
    """Return the pixels of an encoded image, RGB.

    Grey is repeated and CMYK converted. A note in the file to rotate it is not followed, as it is
    neither by TFDS nor by torchvision.

    Args:
      encoded: the file, JPEG, PNG or of another format that OpenCV reads.
      name: of the image, for messages.
      at_least: (H, W). If given, a JPEG may come at 1/8 to 4/8 of its size, as long as no side is
        shorter than this.

    Raises:
      BadRecordError: it is no image, or broken off.
    """
    height, width = at_least or (0, 0)
    try:
        # A quarter faster than OpenCV, and the same pixels.
        return simplejpeg.decode_jpeg(
            encoded, min_height=height, min_width=width, min_factor=2 if at_least else 1
        )
    except ValueError:
        pass  # another format, other colours, or broken
    # Not cv2.imread, which fills up a JPEG that breaks off with grey.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    if pixels is None:
        raise BadRecordError(name, "is not an image, or breaks off; copy or save it again.")
    return np.asarray(pixels)


def size_of(encoded: bytes, name: str) -> tuple[int, int]:
    """Return the height and the width of an encoded image, from its header alone.

    Args: as of `decode`.

    Raises:
      BadRecordError: it is no image.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
        return int(height), int(width)
    except ValueError:
        pass  # another format
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.height, image.width
    except UnidentifiedImageError as error:
        raise BadRecordError(name, "is not an image; copy or save it again.") from error
