"""ImageNet (ILSVRC 2012): 1,281,167 training and 50,000 validation images in 1,000 classes.

`python -m mdeq_jax.commands.prepare --name=imagenet2012` has TFDS prepare it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data.dataset import Dataset, Example
from mdeq_jax.vision.data.labelled_images import labelled_images
from mdeq_jax.vision.data.prepared import Prepared, open_prepared


@dataclasses.dataclass(frozen=True)
class _Named(Sequence[Example]):
    """Records of ImageNet under the names of `labelled_images`."""

    records: Prepared

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Example:
        record = self.records[index]
        name = record["file_name"].decode()
        return {"image": record["image"], "label": record["label"], "name": name}


def imagenet2012(data: DataConfig) -> Dataset:
    """Return the data set, whose classes are called by their WordNet ids, as n01440764.

    Args:
      data: the data section of the config.

    Raises:
      ValueError: as `labelled_images`; where it is opened: it is not prepared.
    """
    open_split = functools.partial(_open, data.dir)
    return labelled_images(
        data,
        class_names(),
        open_train=functools.partial(open_split, "train"),
        open_eval=functools.partial(open_split, "validation"),
    )


def class_names() -> tuple[str, ...]:
    """Return the WordNet ids of the 1,000 classes, in the order of TFDS, which is the usual one."""
    path = Path(tfds.core.tfds_path("datasets/imagenet2012/labels.txt"))
    return tuple(path.read_text().split())


def _open(data_dir: str | None, split: str) -> Sequence[Example]:
    return _Named(open_prepared("imagenet2012", data_dir, split, images=("image",)))
