"""A classification data set of images of any size, each with one label."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from mdeq_jax.images.decoding import Size, decode
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data.classification_transforms import (
    centre,
    colour_jitter,
    random_flip,
    random_resized_crop,
)
from mdeq_jax.vision.data.dataset import IMAGENET, Dataset, Example


def labelled_images(
    data: DataConfig,
    class_names: tuple[str, ...],
    open_train: Callable[[], Sequence[Example]],
    open_eval: Callable[[], Sequence[Example]],
) -> Dataset:
    """Return a data set whose training images are random resized crops, randomly mirrored.

    Evaluation and training without augmentation take the middle of an image.

    Args:
      data: the data section of the config.
      class_names: names of the classes 0, 1, ...
      open_train: returns the training examples {"image": encoded, "label": int, "name"}.
      open_eval: returns the evaluation examples, with the same keys.

    Raises:
      ValueError: the configured image size is not square.
    """
    eval_size = data.eval_image_size or data.image_size
    for field, size in (("image_size", data.image_size), ("eval_image_size", eval_size)):
        if size[0] != size[1]:
            raise ValueError(
                f"config.data.{field} is {size}, but crops of {data.name!r} are squares; set both"
                " sides alike."
            )
    if data.augment:
        train = functools.partial(_augmented, size=data.image_size, colour=data.colour_jitter)
    else:
        train = lambda example, _: evaluated(example, data.image_size)  # noqa: E731
    return Dataset(
        task="classification",
        class_names=class_names,
        image_size=data.image_size,
        eval_image_size=lambda: eval_size,
        open_train=open_train,
        open_eval=open_eval,
        train_transform=train,
        eval_transform=evaluated,
        normalise=IMAGENET,
        fit=functools.partial(centre, size=eval_size),
    )


def evaluated(example: Example, size: Size) -> Example:
    """Return an evaluation example: the middle of the image, by `centre`.

    Args:
      example: "image" encoded, "label", "name".
      size: (n, n).

    Raises:
      BadRecordError: the file is not an image, or is truncated.
    """
    image = decode(example["image"], example["name"])
    return {"image": centre(image, size), "label": np.int32(example["label"])}


def _augmented(
    example: Example, generator: np.random.Generator, size: Size, colour: float
) -> Example:
    image = random_resized_crop(example["image"], example["name"], size, generator)
    image = random_flip(image, generator)
    if colour > 0:
        image = colour_jitter(image, colour, generator)
    return {"image": image, "label": np.int32(example["label"])}
