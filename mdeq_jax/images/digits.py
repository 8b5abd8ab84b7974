"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, and their split."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, UInt8

TEST_EXAMPLES = 360
SIZE = (8, 8)
WHITE = 16


class RawDigits(NamedTuple):
    """All digits in scikit-learn's order, and which of them are for training and for testing.

    Attributes:
      images: uint8, 0 (background) to 16.
      labels: 0 to 9.
      rows: rows of "train" and of "test", in the order of the split.
    """

    images: UInt8[np.ndarray, "N 8 8 1"]
    labels: Int[np.ndarray, " N"]
    rows: dict[str, Int[np.ndarray, " n"]]

    @property
    def scaled(self) -> Float32[np.ndarray, "N 8 8 1"]:
        """The images with pixels in [0, 1]."""
        return self.images.astype(np.float32) / WHITE


def load_raw() -> RawDigits:
    """Return scikit-learn's digits and their split."""
    from sklearn.datasets import load_digits  # slow to import

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))
    rows = {"train": order[:-TEST_EXAMPLES], "test": order[-TEST_EXAMPLES:]}
    return RawDigits(pixels.reshape(-1, 8, 8, 1).astype(np.uint8), labels, rows)
