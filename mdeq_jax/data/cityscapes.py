"""Cityscapes, 2,975 training and 500 validation images of 2048×1024, 19 classes.

Read through TFDS (`cityscapes/semantic_segmentation`), or where `data.root` is set from the
extracted archives by the originals' lists:

    ROOT/list/cityscapes/{train,val}.lst   lines "IMAGE LABEL", paths below ROOT/cityscapes
    ROOT/cityscapes/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
    ROOT/cityscapes/gtFine/{train,val}/CITY/*_gtFine_labelIds.png

`mdeq_jax.data.cityscapes_archives` makes either of them from the official archives.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mdeq_jax.config import DataConfig
from mdeq_jax.config.loss import IGNORE
from mdeq_jax.data.cityscapes_labels import CLASS_NAMES, LABELS
from mdeq_jax.data.dataset import Dataset, Example
from mdeq_jax.data.image_files import (
    UNKNOWN,
    ClassTable,
    Pairs,
    existing,
    pixel_labelled,
    to_classes,
)

IMAGE_SIZE = (1024, 2048)
BUILDER = "cityscapes/semantic_segmentation"
LABEL_SUFFIX = "_labelIds.png"

_COMMAND = "python -m mdeq_jax.data.cityscapes_archives"


def cityscapes(data: DataConfig) -> Dataset:
    """Return the data set, from the files in `data.root` or else from TFDS in `data.dir`.

    Args:
      data: the data section of the config.

    Raises:
      ValueError, where it is opened: it is not prepared, a list or a file that it names is missing.
    """
    if data.root is None:
        open_train = functools.partial(open_prepared, data.dir, "train")
        open_eval = functools.partial(open_prepared, data.dir, "validation")
    else:
        open_train = functools.partial(open_list, Path(data.root), "train")
        open_eval = functools.partial(open_list, Path(data.root), "val")
    return pixel_labelled(data, CLASS_NAMES, open_train, open_eval, own_size=lambda: IMAGE_SIZE)


def class_table() -> ClassTable:
    """Return the class of each id of the label files; 255 is to be ignored, as ids of no class."""
    table = np.full(256, UNKNOWN, np.uint8)
    table[[label.id for label in LABELS]] = [label.train_id for label in LABELS]
    table[IGNORE] = IGNORE
    return table


def list_path(root: Path, split: str) -> Path:
    """Return where the list of a split is.

    Args:
      root: as `data.root`.
      split: "train" or "val".
    """
    return root / "list" / "cityscapes" / f"{split}.lst"


def open_list(root: Path, split: str) -> Pairs:
    """Return the images that a list names.

    Args:
      root: as `data.root`.
      split: "train" or "val".

    Raises:
      ValueError: the list, or a file it names, is missing; a line is no pair of paths.
    """
    path = list_path(root, split)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `{_COMMAND} --root={root}` writes it.")
    pairs = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        names = line.split()
        if len(names) != 2 or not names[1].endswith(LABEL_SUFFIX):
            raise ValueError(
                f"line {number} of {path} is {line!r}; it must be the path of an image and that of"
                f" its label file *{LABEL_SUFFIX}."
            )
        pairs.append((root / "cityscapes" / names[0], root / "cityscapes" / names[1]))
    return Pairs(existing(pairs), class_table())


@dataclasses.dataclass(frozen=True)
class Prepared(Sequence[Example]):
    """Images as TFDS prepared them, decoded on access.

    Attributes:
      source: examples of the TFDS builder.
    """

    source: Any

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    def __getitem__(self, index: Any) -> Example:
        """Return {"image": uint8 (H, W, 3), "label": uint8 (H, W), "name"}."""
        raw = self.source[index]
        name, ids = raw["image_id"].decode(), raw["segmentation_label"][..., 0]
        if ids.shape != raw["image_left"].shape[:2]:
            raise ValueError(
                f"the labels of {name} are of size {ids.shape}, but the image is of size"
                f" {raw['image_left'].shape[:2]}; prepare {BUILDER} from other archives."
            )
        label = to_classes(ids, class_table(), f"{name}{LABEL_SUFFIX}")
        return {"image": raw["image_left"], "label": label, "name": name}


def open_prepared(data_dir: str | None, split: str) -> Prepared:
    """Return the images of a split that TFDS prepared, read without TensorFlow.

    Args:
      data_dir: folder of all TFDS data sets; None for TFDS's default (TFDS_DATA_DIR).
      split: "train" or "validation".

    Raises:
      ValueError: it is not prepared, or not as ArrayRecord.
    """
    builder = tfds.builder(BUILDER, data_dir=data_dir)
    path, folder = builder.data_path, builder.data_dir_root
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; prepare Cityscapes by `{_COMMAND} --archives=DIR"
            f" --data-dir={folder}`, or set data.root to the folder of the extracted archives."
        )
    try:
        source = tfds.data_source(BUILDER, split=split, data_dir=data_dir)
    except NotImplementedError as error:  # TFDS's word for a format without random access
        raise ValueError(
            f"{path} is in a format that cannot be read without TensorFlow; remove it and prepare"
            f" Cityscapes by `{_COMMAND} --archives=DIR --data-dir={folder}`, as ArrayRecord."
        ) from error
    return Prepared(source)
