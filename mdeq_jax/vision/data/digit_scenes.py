"""Street-scene stand-ins: real handwritten digits in front of real photographs, labelled by pixel.

Every scene is a random crop of one of scikit-learn's two photographs, darkened. In front of it
stand two or three of scikit-learn's digits, bright, smoothly enlarged to several scales. Like cars
and pedestrians, near digits are larger and may hide parts of the digits behind them. A scene is
determined by its split and its number.
"""

import functools
import io
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8
from PIL import Image

from mdeq_jax.images.digits import load_raw
from mdeq_jax.vision.config import IGNORE, DataConfig
from mdeq_jax.vision.data import embedded
from mdeq_jax.vision.data.classification_transforms import scaled_middle
from mdeq_jax.vision.data.dataset import IMAGENET, Dataset, Example, require_image_size
from mdeq_jax.vision.data.segmentation_transforms import (
    as_example,
    pad,
    random_crop,
    random_scale,
)

SIDE = 64
BACKGROUND = 0
CLASS_NAMES = ("background", *map(str, range(10)))
SCENES = {"train": 3000, "test": 200}

Photo = UInt8[np.ndarray, "H W 3"]
Label = UInt8[np.ndarray, "64 64"]

# Columns of the photographs, 640 wide, that each split uses.
_COLUMNS = {"train": slice(0, 448), "test": slice(448, 640)}
_SEEDS = {"train": 0, "test": 1}
_DIGITS_PER_SCENE = (2, 3)
_DIGIT_SIDES = (20, 32)
# Most of a digit's ink that may cover digits behind it, and the number of places that are tried.
_COVERING, _PLACES = 0.05, 20
# A digit is always brighter than everything behind it.
_DUSK = 2  # divides the photographs' brightness
_SHADE = 0.35  # most that a digit's colour is darker than white


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of digits in front of photographs, with the class of every pixel."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits before photographs, labelled by pixel.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
                    "label": tfds.features.Image(shape=(SIDE, SIDE, 1), encoding_format="png"),
                }
            ),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, Example]]]:
        return {split: self._generate_examples(split) for split in SCENES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Example]]:
        from sklearn.datasets import load_sample_images  # needed only to prepare

        photos = [photo[:, _COLUMNS[split]] for photo in load_sample_images().images]
        digits = load_raw()
        rows = digits.rows[split]
        for number in range(SCENES[split]):
            generator = np.random.default_rng((_SEEDS[split], number))
            drawn = generator.choice(rows, generator.integers(*_DIGITS_PER_SCENE, endpoint=True))
            photo = photos[generator.integers(len(photos))]
            image, label = compose(photo, digits.images[drawn], digits.labels[drawn], generator)
            yield number, {"image": _png(image), "label": _png(label)}


def compose(
    photo: Photo,
    digits: UInt8[np.ndarray, "n 8 8 1"],
    labels: UInt8[np.ndarray, " n"],
    generator: np.random.Generator,
) -> tuple[Photo, Label]:
    """Draw one scene.

    Args:
      photo: photograph from which the background is cropped.
      digits: grey values 0 to 16, from the farthest to the nearest.
      labels: class of each digit, 0 to 9.
      generator: source of crop, sizes, places and colours.

    Returns:
      image: uint8 (64, 64, 3).
      label: uint8 (64, 64): 0 for background, d + 1 where digit d is visible, `IGNORE` on the
        digit's antialiased border.
    """
    image, label = _background(photo, generator), np.zeros((SIDE, SIDE), np.uint8)
    sides = np.sort(generator.integers(*_DIGIT_SIDES, len(digits), endpoint=True))
    for digit, value, side in zip(digits, labels, sides, strict=True):
        ink = _ink(digit, int(side))
        window = _place(label, ink, generator)
        colour = 255 - _SHADE * generator.uniform(0, 255, 3)
        alpha = ink[..., None]
        image[window] = np.rint(alpha * colour + (1 - alpha) * image[window])
        label[window] = np.where(ink > 0.25, IGNORE, label[window])
        label[window] = np.where(ink > 0.75, value + 1, label[window])
    return image, label


def _background(photo: Photo, generator: np.random.Generator) -> Photo:
    side = generator.integers(SIDE, 2 * SIDE, endpoint=True)
    top, left = (generator.integers(extent - side, endpoint=True) for extent in photo.shape[:2])
    crop = np.ascontiguousarray(photo[top : top + side, left : left + side])
    return cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA) // _DUSK


def _ink(digit: UInt8[np.ndarray, "8 8 1"], side: int) -> Float[np.ndarray, "side side"]:
    """Return the opacity in [0, 1] of the digit, enlarged, with a border of 1 or 2 pixels."""
    smooth = cv2.resize(digit / 16, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip((smooth - 0.5) * (side / 16) + 0.5, 0, 1)


def _place(
    label: Label, ink: Float[np.ndarray, "side side"], generator: np.random.Generator
) -> tuple[slice, slice]:
    """Return the first of several random windows that hides little, otherwise the last one."""
    side, solid = len(ink), ink > 0.5
    window = (slice(0, 0), slice(0, 0))
    for _ in range(_PLACES):
        top, left = generator.integers(SIDE - side, size=2, endpoint=True)
        window = (slice(top, top + side), slice(left, left + side))
        if np.mean(label[window][solid] != BACKGROUND) <= _COVERING:
            break
    return window


def _png(pixels: np.ndarray) -> io.BytesIO:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="png")
    encoded.seek(0)
    return encoded


def _with_image_label(example: Example) -> Example:
    """Add "image_label": the digit with the most pixels, or background if there is none."""
    counts = np.bincount(example["label"].ravel(), minlength=IGNORE + 1)[: len(CLASS_NAMES)]
    counts[BACKGROUND] = 0
    return {**example, "image_label": np.int32(counts.argmax())}


def _plain(example: Example, _: Any) -> Example:
    """Return the example: no augmentation, and all images have one size."""
    return _with_image_label(as_example(example["image"], example["label"][..., 0]))


def _augmented(example: Example, generator: np.random.Generator) -> Example:
    """Return a random scale 0.9 to 1.1, crop and colour order; digits must not be mirrored."""
    colours = generator.permutation(3)
    image, label = np.ascontiguousarray(example["image"][..., colours]), example["label"][..., 0]
    image, label = random_scale(image, label, generator, tenths=(9, 11))
    image, label = random_crop(image, label, (SIDE, SIDE), generator)
    padded = pad(as_example(image, label), (SIDE, SIDE))
    return _with_image_label(padded)


def digit_scenes(data: DataConfig) -> Dataset:
    """Return the data set; an image's own label is the digit with the most pixels.

    Args:
      data: the data section of the config.

    Raises:
      ValueError: another image size is configured.
    """
    require_image_size(data, (SIDE, SIDE))
    # 25 MB, held in memory.
    split = functools.partial(embedded.load_split, DigitScenes, data.dir)
    return Dataset(
        task="segmentation",
        class_names=CLASS_NAMES,
        image_size=(SIDE, SIDE),
        eval_image_size=lambda: (SIDE, SIDE),
        open_train=functools.partial(split, "train"),
        open_eval=functools.partial(split, "test"),
        train_transform=_augmented if data.augment else _plain,
        eval_transform=_plain,
        normalise=IMAGENET,
        fit=functools.partial(scaled_middle, size=(SIDE, SIDE)),
        image_labels=True,
    )
