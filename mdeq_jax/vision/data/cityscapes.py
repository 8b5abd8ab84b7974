"""Cityscapes, 2,975 training and 500 validation images of 2048×1024, 19 classes.

It is read through TFDS (`cityscapes/semantic_segmentation`). If `data.root` is set, it is read from
the extracted archives by the originals' lists:

    ROOT/list/cityscapes/{train,val}.lst   lines "IMAGE LABEL", paths below ROOT/cityscapes
    ROOT/cityscapes/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
    ROOT/cityscapes/gtFine/{train,val}/CITY/*_gtFine_labelIds.png

From the official archives, `mdeq_jax.commands.prepare` prepares it for TFDS, and
`mdeq_jax.commands.cityscapes_archives` extracts it and writes the lists.
"""

import functools
from pathlib import Path

from mdeq_jax.images.decoding import decode, decode_label
from mdeq_jax.images.files import read_text
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data.cityscapes_labels import CLASS_NAMES, LABELS
from mdeq_jax.vision.data.dataset import Dataset, Example
from mdeq_jax.vision.data.prepared import ARCHIVES, open_prepared
from mdeq_jax.vision.data.segmentation import (
    Pairs,
    class_table,
    labelled_pixels,
    pixel_labelled,
    require_pairs_exist,
)

IMAGE_SIZE = (1024, 2048)
BUILDER = "cityscapes/semantic_segmentation"
LABEL_SUFFIX = "_labelIds.png"
CLASS_OF_ID = class_table([label.id for label in LABELS], [label.train_id for label in LABELS])

_COMMAND = "python -m mdeq_jax.commands.cityscapes_archives"


def cityscapes(data: DataConfig) -> Dataset:
    """Return the data set, from the files in `data.root` if it is set, otherwise from TFDS.

    Args:
      data: the data section of the config.

    Raises:
      ValueError: When the data set is opened: it is not prepared, or a list or a file that a list
        names is missing.
    """
    if data.root is None:
        open_split = functools.partial(
            open_prepared,
            BUILDER,
            data.dir,
            images=("image_left", "segmentation_label"),
            convert=_labelled,
            otherwise=" If the archives are extracted, set config.data.root to the folder that has"
            " list/ and cityscapes/ in it.",
        )
        open_train = functools.partial(open_split, "train")
        open_eval = functools.partial(open_split, "validation")
    else:
        open_train = functools.partial(open_list, Path(data.root), "train")
        open_eval = functools.partial(open_list, Path(data.root), "val")
    return pixel_labelled(data, CLASS_NAMES, open_train, open_eval, own_size=lambda: IMAGE_SIZE)


def list_path(root: Path, split: str) -> Path:
    """Return the path of the list of a split.

    Args:
      root: value of `data.root`.
      split: "train" or "val".
    """
    return root / "list" / "cityscapes" / f"{split}.lst"


def open_list(root: Path, split: str) -> Pairs:
    """Return the images that a list names.

    Args:
      root: value of `data.root`.
      split: "train" or "val".

    Raises:
      ValueError: the list, or a file it names, is missing; the list is not in UTF-8, or a line of
        it is not a pair of paths.
    """
    path = list_path(root, split)
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; {ARCHIVES['cityscapes'].into('a folder DIR')}, and run"
            f" `{_COMMAND} --archives=DIR --root={root}`. Where they are extracted already,"
            f" `{_COMMAND} --root={root}` writes it."
        )
    pairs = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        names = line.split()
        if len(names) != 2 or not names[1].endswith(LABEL_SUFFIX):
            raise ValueError(
                f"line {number} of {path} is {line!r}; it must be the path of an image and that of"
                f" its label file *{LABEL_SUFFIX}."
            )
        pairs.append((root / "cityscapes" / names[0], root / "cityscapes" / names[1]))
    return Pairs(require_pairs_exist(pairs), CLASS_OF_ID)


def _labelled(record: Example) -> Example:
    """Return a record of TFDS, decoded, in the form of the examples of `Pairs`."""
    name = record["image_id"].decode()
    label_name = f"{name}{LABEL_SUFFIX}"
    image = decode(record["image_left"], name)
    ids = decode_label(record["segmentation_label"], label_name)
    return labelled_pixels(image, ids, CLASS_OF_ID, name, label_name)
