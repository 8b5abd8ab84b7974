"""Segmentation data sets: images with their label files, read and checked."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import logging
from jaxtyping import UInt8

from mdeq_jax.images.decoding import Pixels, decode_label, header_size, size_of
from mdeq_jax.images.files import read_file, read_image
from mdeq_jax.training.reader import BadRecordError
from mdeq_jax.vision.config import IGNORE, DataConfig
from mdeq_jax.vision.data.classification_transforms import scaled_middle
from mdeq_jax.vision.data.dataset import IMAGENET, Dataset, Example
from mdeq_jax.vision.data.segmentation_transforms import augmented, centred, whole

# The entry of a class table for an unknown id.
UNKNOWN = 254

# Every published model takes sides divisible by 32.
_SIDE_MULTIPLE = 32

# The largest number of warnings about label files that hold black and white.
_MAX_WARNINGS = 10

# These first bytes hold the header of nearly every JPEG and PNG file.
_HEADER_BYTES = 2**16

ClassTable = UInt8[np.ndarray, "256"]


def class_table(ids: Sequence[int], classes: Sequence[int]) -> ClassTable:
    """Return the class of each id in label files; `UNKNOWN` for ids that are not given."""
    table = np.full(256, UNKNOWN, np.uint8)
    table[ids] = classes
    table[IGNORE] = IGNORE
    return table


@dataclasses.dataclass(frozen=True)
class Pairs(Sequence[Example]):
    """Images with their labels, read on access.

    Attributes:
      paths: the path of each image and of its label file.
      classes: for each id in a label file the class, `IGNORE` or `UNKNOWN`.
      doubtful: names of the label files for which `holds_black_and_white` is true, with a warning
        each.
    """

    paths: tuple[tuple[Path, Path], ...]
    classes: ClassTable
    doubtful: set[str] = dataclasses.field(default_factory=set, compare=False)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: Any) -> Example:
        """Return {"image": uint8 (H, W, 3), "label": uint8 (H, W), "name"}."""
        image_path, label_path = self.paths[index]
        image = read_image(image_path)
        ids = decode_label(read_file(label_path), str(label_path))
        example = labelled_pixels(image, ids, self.classes, str(image_path), str(label_path))
        if holds_black_and_white(ids, self.classes):
            self._warn(str(label_path))
        return example

    def _warn(self, name: str) -> None:
        if name in self.doubtful or len(self.doubtful) == _MAX_WARNINGS:
            return
        self.doubtful.add(name)
        logging.warning(
            "%s holds 0 and %d alone, and %d is ignored. If it stands for class 1, replace it by"
            " `cv2.imwrite(path, (cv2.imread(path, 0) > 0).astype('uint8'))`. (warning %d of at"
            " most %d)",
            name,
            IGNORE,
            IGNORE,
            len(self.doubtful),
            _MAX_WARNINGS,
        )


def require_pairs_exist(pairs: Iterable[tuple[Path, Path]]) -> tuple[tuple[Path, Path], ...]:
    """Return pairs of an image file and its label file; raise ValueError if a file is missing."""
    pairs = tuple(pairs)
    for image, label in pairs:
        if not image.is_file():
            raise ValueError(
                f"the image {image} does not exist; put it there, or take it out of the list."
            )
        if not label.is_file():
            raise ValueError(
                f"the image {image} has no label file: {label} does not exist; put it there, or"
                " remove the image."
            )
    return pairs


def labelled_pixels(
    image: Pixels,
    ids: UInt8[np.ndarray, "H W"],
    classes: ClassTable,
    name: str,
    label_name: str,
) -> Example:
    """Return {"image": uint8 (H, W, 3), "label": the classes, uint8 (H, W), "name"}.

    Args:
      image: the pixels of the image.
      ids: the ids in its label file.
      classes: for each id the class, `IGNORE` or `UNKNOWN`.
      name: name of the image, for messages.
      label_name: name of the label file, for messages.

    Raises:
      ValueError: the sizes differ, or an id is unknown.
    """
    if ids.shape != image.shape[:2]:
        raise ValueError(
            f"{label_name} is of size {ids.shape}, but its image {name} is of size"
            f" {image.shape[:2]}; labels must have the size of their image."
        )
    label = np.asarray(cv2.LUT(ids, classes))  # five times as fast as classes[ids]
    unknown = label == UNKNOWN
    if unknown.any():
        known = np.flatnonzero((classes != UNKNOWN) & (np.arange(256) != IGNORE))
        raise ValueError(
            f"{label_name} has the label id {ids[unknown][0]}, which is out of range: ids are"
            f" {known.min()} to {known.max()}, and {IGNORE} for what is to be ignored."
        )
    return {"image": image, "label": label, "name": name}


def holds_black_and_white(ids: UInt8[np.ndarray, "H W"], classes: ClassTable) -> bool:
    """Return whether a label file looks like a black and white mask and not like class numbers.

    It does if there are several classes and the file holds `IGNORE`, class 0 and no other class.

    Args:
      ids: ids in the label file.
      classes: for each id the class, `IGNORE` or `UNKNOWN`.
    """
    if (classes[0], classes[1]) != (0, 1) or ids.max() != IGNORE:
        return False
    return bool(((ids == 0) | (ids == IGNORE)).all())


def largest_size(images: Iterable[Path]) -> tuple[int, int]:
    """Return the height and the width that hold every image, as multiples of 32.

    Args:
      images: image files. Only the headers of JPEG and PNG files are read. Files that are not
        images are left out here; the reader counts them.

    Raises:
      ValueError: no file is an image.
      OSError: a folder has vanished.
    """
    images, sizes = tuple(images), []
    for path in images:
        try:
            head = header_size(read_file(path, _HEADER_BYTES))
            sizes.append(head or size_of(read_file(path), str(path)))
        except BadRecordError:
            continue
    if not sizes:
        raise ValueError(
            f"none of {len(images)} files is an image ({', '.join(map(str, images[:3]))}); copy or"
            " save them again."
        )
    height, width = (
        -(-max(sides) // _SIDE_MULTIPLE) * _SIDE_MULTIPLE for sides in zip(*sizes, strict=True)
    )
    return height, width


def pixel_labelled(
    data: DataConfig,
    class_names: tuple[str, ...],
    open_train: Callable[[], Sequence[Example]],
    open_eval: Callable[[], Sequence[Example]],
    own_size: Callable[[], tuple[int, int]],
) -> Dataset:
    """Return a segmentation data set: crops of images for training, full images for evaluation.

    Args:
      data: the data section of the config.
      class_names: names of the classes 0, 1, ...
      open_train: returns the training examples {"image": uint8 (H, W, 3), "label": uint8 (H, W),
        "name"}.
      open_eval: returns the evaluation examples, with the same keys.
      own_size: returns (H, W) of evaluation images; called if the config does not set it.
    """
    transform = augmented if data.augment else centred
    return Dataset(
        task="segmentation",
        class_names=class_names,
        image_size=data.image_size,
        eval_image_size=lambda: data.eval_image_size or own_size(),
        open_train=open_train,
        open_eval=open_eval,
        train_transform=functools.partial(transform, size=data.image_size),
        eval_transform=whole,
        normalise=IMAGENET,
        fit=functools.partial(scaled_middle, size=data.image_size),
    )
