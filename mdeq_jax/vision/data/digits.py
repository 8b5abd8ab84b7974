"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8

from mdeq_jax.images.decoding import Pixels
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import embedded
from mdeq_jax.vision.data.classification_transforms import random_shift, scaled_middle
from mdeq_jax.vision.data.dataset import Dataset, Example, Normalisation, require_image_size

TEST_EXAMPLES = 360
SIZE = (8, 8)
WHITE = 16
NORMALISATION = Normalisation((0.3, 0.3, 0.3), (0.38, 0.38, 0.38), WHITE)


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


def load_raw() -> RawDigits:
    """Return scikit-learn's digits and their split."""
    from sklearn.datasets import load_digits  # needed only to prepare

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(labels))
    rows = {"train": order[:-TEST_EXAMPLES], "test": order[-TEST_EXAMPLES:]}
    return RawDigits(pixels.reshape(-1, 8, 8, 1).astype(np.uint8), labels, rows)


class Digits(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of scikit-learn's copy of the UCI optical digits test set."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8 x 8 pixels, 0 (background) to 16.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                    "index": np.int64,  # row in scikit-learn's order
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,  # the test split keeps the order of its definition
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, Example]]]:
        images, labels, rows = load_raw()
        return {split: self._generate_examples(images, labels, rows[split]) for split in rows}

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, Example]]:
        for position, row in enumerate(rows):
            yield position, {"image": images[row], "label": labels[row], "index": row}


def fit(image: Pixels) -> Pixels:
    """Return any image in the form of the digits: its middle in 17 greys.

    Args:
      image: RGB, white on black.
    """
    grey = cv2.cvtColor(scaled_middle(image, SIZE), cv2.COLOR_RGB2GRAY)[..., None]
    return _three_colours(np.rint(grey * (WHITE / 255)).astype(np.uint8))


def _three_colours(grey: UInt8[np.ndarray, "H W 1"]) -> Pixels:
    return np.repeat(grey, 3, axis=-1)


def _plain(example: Example, _: Any) -> Example:
    """Return the example: no augmentation, and all images have one size."""
    return {"image": _three_colours(example["image"]), "label": np.int32(example["label"])}


def _augmented(example: Example, generator: np.random.Generator) -> Example:
    return _plain({**example, "image": random_shift(example["image"], 1, generator)}, generator)


def digits(data: DataConfig) -> Dataset:
    """Return the data set; raises ValueError if another image size is configured.

    Args:
      data: the data section of the config.
    """
    require_image_size(data, SIZE)
    # 115 kB, held in memory.
    split = functools.partial(embedded.load_split, Digits, data.dir)
    return Dataset(
        task="classification",
        class_names=tuple(map(str, range(10))),
        image_size=SIZE,
        eval_image_size=lambda: SIZE,
        open_train=functools.partial(split, "train"),
        open_eval=functools.partial(split, "test"),
        train_transform=_augmented if data.augment else _plain,
        eval_transform=_plain,
        normalise=NORMALISATION,
        fit=fit,
    )
