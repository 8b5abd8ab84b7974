"""Your own folder of images, a subfolder for each class, in the layout of `tfds.ImageFolder`.

ROOT/train/CLASS/NAME.*   .jpg, .jpeg, .png, .webp, .bmp, .ppm, .tif or .tiff
ROOT/val/CLASS/NAME.*     or ROOT/validation, or ROOT/test: the first one that exists
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from mdeq_jax.images.files import IMAGE_SUFFIXES, list_images, read_file, visible
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data.classification import labelled_images
from mdeq_jax.vision.data.dataset import Dataset, Example, require_root

_EVAL_SPLITS = ("val", "validation", "test")
_LAYOUT = "ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg"


@dataclasses.dataclass(frozen=True)
class ImageFiles(Sequence[Example]):
    """Images with their labels, read on access.

    Attributes:
      folder: folder of the split.
      names: path of each image, relative to the folder.
      labels: class of each image.
    """

    folder: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def __getitem__(self, index: Any) -> Example:
        """Return {"image": encoded, "label", "name"}."""
        path = f"{self.folder}/{self.names[index]}"  # joining Paths takes long
        return {"image": read_file(path), "label": self.labels[index], "name": path}


def folder(data: DataConfig) -> Dataset:
    """Return the data set that lies in `data.root`, whose classes are the folders in ROOT/train.

    Args:
      data: the data section of the config.

    Raises:
      ValueError: the image size is not square, `data.root` is not set, or it has no folder of
        classes. When the data set is opened: there are no images, or there is a class that is not
        in ROOT/train.
    """
    root = require_root(data, _LAYOUT)
    classes = class_names(root / "train")
    return labelled_images(
        data,
        classes,
        open_train=lambda: find_images(root / "train", classes),
        open_eval=lambda: find_images(_eval_split(root), classes),
    )


def class_names(split: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted.

    Args:
      split: the folder.

    Raises:
      ValueError: it does not exist, or has no folder in it.
    """
    if not split.is_dir():
        raise ValueError(f"{split} does not exist; config.data.root must hold {_LAYOUT}.")
    names = tuple(sorted(visible(path.name for path in split.iterdir() if path.is_dir())))
    if not names:
        raise ValueError(f"{split} holds no class; config.data.root must hold {_LAYOUT}.")
    return names


def find_images(split: Path, classes: Sequence[str]) -> ImageFiles:
    """Return the images of a split, sorted by class and name.

    A class whose folder holds no image is named in a warning.

    Args:
      split: folder that holds a folder for each class, or for some classes.
      classes: names of all classes.

    Raises:
      ValueError: there is no image, or a folder that is not among the classes.
    """
    present = class_names(split)
    unknown = sorted(set(present) - set(classes))
    if unknown:
        raise ValueError(
            f"{split / unknown[0]} is of a class that has no folder in the training split; rename"
            " or remove it."
        )
    found = {name: list_images(split / name) for name in classes}
    names = [f"{name}/{file}" for name, files in found.items() for file in files]
    labels = [label for label, files in enumerate(found.values()) for _ in files]
    wanted = f"CLASS/*{', CLASS/*'.join(IMAGE_SUFFIXES)}"
    if not names:
        raise ValueError(f"{split} holds no image {wanted}; put images there.")
    empty = [name for name in present if not found[name]]
    if empty:
        logging.warning(
            "%d classes in %s have no image %s: %s; put images into these folders, or remove them.",
            len(empty),
            split,
            wanted,
            ", ".join(empty),
        )
    return ImageFiles(split, tuple(names), tuple(labels))


def _eval_split(root: Path) -> Path:
    for split in _EVAL_SPLITS:
        if (root / split).is_dir():
            return root / split
    raise ValueError(
        f"{root} has none of the folders {', '.join(_EVAL_SPLITS)}; config.data.root must hold"
        f" {_LAYOUT}."
    )
