"""CIFAR-10: 50,000 training and 10,000 test images of 32×32, in 10 classes.

`python -m mdeq_jax.commands.prepare --name=cifar10` prepares it through TFDS. Source of the
preprocessing: `tools/cls_train.py`, locuslab/deq.
"""

import functools
from typing import Any

import numpy as np

from mdeq_jax.images.decoding import decode
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data.classification_transforms import random_flip, random_shift, scaled_middle
from mdeq_jax.vision.data.dataset import (
    Dataset,
    Example,
    Normalisation,
    require_image_size,
)
from mdeq_jax.vision.data.prepared import open_prepared

SIZE = (32, 32)
CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
NORMALISATION = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))

_PADDING = 4


def cifar10(data: DataConfig) -> Dataset:
    """Return the data set, whose augmentation shifts by up to 4 pixels and mirrors.

    Args:
      data: the data section of the config.

    Raises:
      ValueError: another image size is configured. When the data set is opened: it is not prepared.
    """
    require_image_size(data, SIZE)
    split = functools.partial(open_prepared, "cifar10", data.dir, images=("image",))
    return Dataset(
        task="classification",
        class_names=CLASS_NAMES,
        image_size=SIZE,
        eval_image_size=lambda: SIZE,
        open_train=functools.partial(split, "train"),
        open_eval=functools.partial(split, "test"),
        train_transform=_augmented if data.augment else _plain,
        eval_transform=_plain,
        normalise=NORMALISATION,
        fit=functools.partial(scaled_middle, size=SIZE),
    )


def _plain(example: Example, _: Any) -> Example:
    """Return the example: no augmentation, and all images have one size."""
    image = decode(example["image"], example["id"].decode())
    return {"image": image, "label": np.int32(example["label"])}


def _augmented(example: Example, generator: np.random.Generator) -> Example:
    plain = _plain(example, generator)
    image = random_shift(plain["image"], _PADDING, generator)
    return {**plain, "image": random_flip(image, generator)}
