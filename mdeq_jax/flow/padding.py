"""Padding of images to the sizes that the model takes: sides that are multiples of 8."""

from typing import Literal, NamedTuple, TypeVar, get_args

import jax
import numpy as np

from mdeq_jax.checks import require_one_of
from mdeq_jax.flow.model.config import FACTOR

Mode = Literal["sintel", "kitti"]
# An array (..., H, W, C) of NumPy or JAX.
Images = TypeVar("Images", np.ndarray, jax.Array)


class Padding(NamedTuple):
    """How many rows and columns are added to each side of an image.

    Attributes:
      top: rows above.
      bottom: rows below.
      left: columns to the left.
      right: columns to the right.
    """

    top: int
    bottom: int
    left: int
    right: int

    def pad(self, images: Images) -> Images:
        """Return images (..., H, W, C) with their outermost rows and columns repeated.

        Examples:
          >>> Padding(top=0, bottom=1, left=2, right=0).pad(np.array([[[1], [2]]]))[..., 0]
          array([[1, 1, 1, 2],
                 [1, 1, 1, 2]])
        """
        widths = ((0, 0),) * (images.ndim - 3)
        widths += (self.top, self.bottom), (self.left, self.right), (0, 0)
        if isinstance(images, np.ndarray):
            return np.pad(images, widths, mode="edge")
        return jax.numpy.pad(images, widths, mode="edge")

    def unpad(self, images: Images) -> Images:
        """Return padded images (..., H, W, C) without the rows and columns that were added."""
        height, width = images.shape[-3:-1]
        rows = slice(self.top, height - self.bottom)
        return images[..., rows, self.left : width - self.right, :]


def padding_of(
    height: int, width: int, mode: Mode, target: tuple[int, int] | None = None
) -> Padding:
    """Return the padding that makes height and width multiples of 8, or a given size.

    Args:
      height: number of rows.
      width: number of columns.
      mode: "sintel" adds half of the rows above and half below, "kitti" all of them below. Both add
        half of the columns on each side. An odd row or column goes below or to the right.
      target: the padded height and width; None is the next multiples of 8.

    Source: ``InputPadder`` of princeton-vl/RAFT and locuslab/deq-flow.

    Examples:
      >>> padding_of(436, 1024, "sintel")
      Padding(top=2, bottom=2, left=0, right=0)
    """
    require_one_of("mode", mode, get_args(Mode))
    high, wide = target or (height + -height % FACTOR, width + -width % FACTOR)
    rows, columns = high - height, wide - width
    top = rows // 2 if mode == "sintel" else 0
    return Padding(top, rows - top, columns // 2, columns - columns // 2)
