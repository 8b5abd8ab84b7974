"""ImageNet (ILSVRC 2012): 1,281,167 training and 50,000 validation images in 1,000 classes.

`python -m mdeq_jax.commands.prepare --name=imagenet2012` prepares it through TFDS.
"""

import functools
from pathlib import Path

import tensorflow_datasets as tfds

from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data.classification import labelled_images
from mdeq_jax.vision.data.dataset import Dataset, Example
from mdeq_jax.vision.data.prepared import open_prepared


def imagenet2012(data: DataConfig) -> Dataset:
    """Return the data set. Its classes have their WordNet ids as names, such as n01440764.

    Args:
      data: the data section of the config.

    Raises:
      ValueError: the configured image size is not square. When the data set is opened: it is not
        prepared.
    """
    open_split = functools.partial(
        open_prepared, "imagenet2012", data.dir, images=("image",), convert=_named
    )
    return labelled_images(
        data,
        class_names(),
        open_train=functools.partial(open_split, "train"),
        open_eval=functools.partial(open_split, "validation"),
    )


def class_names() -> tuple[str, ...]:
    """Return the WordNet ids of the 1,000 classes, in the usual order, which TFDS has."""
    path = Path(tfds.core.tfds_path("datasets/imagenet2012/labels.txt"))
    return tuple(path.read_text().split())


def _named(record: Example) -> Example:
    """Return a record of TFDS under the keys that `labelled_images` takes."""
    return {
        "image": record["image"],
        "label": record["label"],
        "name": record["file_name"].decode(),
    }
