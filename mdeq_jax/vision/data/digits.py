"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

import functools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from mdeq_jax.images.decoding import Pixels
from mdeq_jax.images.digits import SIZE, WHITE, load_raw
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import embedded
from mdeq_jax.vision.data.classification_transforms import random_shift, scaled_middle
from mdeq_jax.vision.data.dataset import Dataset, Example, Normalisation, require_image_size

NORMALISATION = Normalisation((0.3, 0.3, 0.3), (0.38, 0.38, 0.38), WHITE)


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
