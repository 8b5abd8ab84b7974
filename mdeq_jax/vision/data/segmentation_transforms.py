"""Augmentation for segmentation: scale, crop and flip an image and its labels as one.

Source: `lib/datasets/base_dataset.py`, locuslab/deq. One thing differs: an image smaller than the
crop is padded with the mean colour, which normalisation takes to less than 0.01, and not with
black.
"""

import functools

import cv2
import numpy as np
from jaxtyping import UInt8

from mdeq_jax.images.decoding import Pixels, Size
from mdeq_jax.layers.resize import scaled_size
from mdeq_jax.vision.config import IGNORE
from mdeq_jax.vision.data.dataset import IMAGENET, Example

MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGENET.mean)

# The originals' scales, 0.5 to 2.1, in tenths.
SCALE_TENTHS = (5, 21)

Label = UInt8[np.ndarray, "H W"]


def as_example(image: Pixels, label: Label) -> Example:
    """Return an example, the label as int32."""
    return {"image": image, "label": label.astype(np.int32)}


def pad(example: Example, size: Size) -> Example:
    """Pad an example at the bottom and at the right.

    Args:
      example: "image" uint8 (h, w, 3), "label" int32 (h, w).
      size: (H, W), h ≤ H and w ≤ W.

    Returns:
      The example with "image" (H, W, 3), of the mean colour where padded, and "label" (H, W),
      `IGNORE` where padded.
    """
    height, width = example["label"].shape
    if (height, width) == tuple(size):
        return example
    border = functools.partial(
        cv2.copyMakeBorder,
        top=0,
        bottom=size[0] - height,
        left=0,
        right=size[1] - width,
        borderType=cv2.BORDER_CONSTANT,
    )
    image = border(example["image"], value=MEAN_COLOUR)
    return {"image": image, "label": border(example["label"], value=(IGNORE,))}


def random_scale(
    image: Pixels, label: Label, generator: np.random.Generator, tenths: tuple[int, int]
) -> tuple[Pixels, Label]:
    """Resize by a random multiple of 0.1, the image bilinearly and the label to the nearest.

    Args:
      image: uint8 (H, W, 3).
      label: uint8 (H, W).
      generator: source of the scale.
      tenths: smallest and largest scale, in tenths.
    """
    height, width = scaled_size(label.shape, generator.integers(*tenths, endpoint=True) / 10)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)


def random_crop(
    image: Pixels, label: Label, size: Size, generator: np.random.Generator
) -> tuple[Pixels, Label]:
    """Cut out a window of at most `size`; every place is equally likely.

    Args:
      image: uint8 (H, W, 3).
      label: uint8 (H, W).
      size: (h, w); a side that is shorter than this is not cut.
      generator: source of the place.
    """
    spare = [max(0, have - want) for have, want in zip(label.shape, size, strict=True)]
    top, left = (int(generator.integers(extent, endpoint=True)) for extent in spare)
    return _crop(image, label, size, top, left)


def _crop(image: Pixels, label: Label, size: Size, top: int, left: int) -> tuple[Pixels, Label]:
    window = (slice(top, top + size[0]), slice(left, left + size[1]))
    return image[window], label[window]


def augmented(example: Example, generator: np.random.Generator, size: Size) -> Example:
    """Return a training example: random scale, random crop, random horizontal flip.

    Args:
      example: "image" uint8 (H, W, 3), "label" uint8 (H, W).
      generator: source of the random numbers.
      size: (h, w) of the crop, which is padded where the scaled image is smaller.

    Returns:
      "image" uint8 (h, w, 3) and "label" int32 (h, w).
    """
    image, label = random_scale(example["image"], example["label"], generator, SCALE_TENTHS)
    image, label = random_crop(image, label, size, generator)
    result = pad(as_example(image, label), size)
    step = generator.choice((-1, 1))
    return {name: pixels[:, ::step] for name, pixels in result.items()}


def centred(example: Example, generator: np.random.Generator, size: Size) -> Example:
    """Return a training example without augmentation: the middle of the image.

    Args:
      example: "image" uint8 (H, W, 3), "label" uint8 (H, W).
      generator: not used.
      size: (h, w) of the crop, which is padded where the image is smaller.
    """
    del generator
    label = example["label"]
    top, left = (max(0, have - want) // 2 for have, want in zip(label.shape, size, strict=True))
    return pad(as_example(*_crop(example["image"], label, size, top, left)), size)


def whole(example: Example, size: Size) -> Example:
    """Return an evaluation example: the image, padded to a size that all images share.

    Args:
      example: "image" uint8 (H, W, 3), "label" uint8 (H, W), and "name" for messages.
      size: (h, w), the size of all evaluation images.

    Raises:
      ValueError: the image is larger.
    """
    shape = example["label"].shape
    if shape[0] > size[0] or shape[1] > size[1]:
        raise ValueError(
            f"{example['name']} is of size {shape}, larger than evaluation images of {size}; set"
            f" config.data.eval_image_size to at least that, or leave it out (None)."
        )
    return pad(as_example(example["image"], example["label"]), size)
