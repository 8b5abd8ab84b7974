"""What the pipeline must know about a data set; each data set is one file beside this one."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from mdeq_jax.images.decoding import Pixels, Size
from mdeq_jax.training.reader import Example
from mdeq_jax.vision.config import DataConfig


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """From pixels to model inputs: (pixel / white − mean) / deviation for each colour.

    Attributes:
      mean: means of red, green and blue, in [0, 1].
      deviation: standard deviations of red, green and blue, above 0.
      white: the pixel that stands for 1.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    white: int = 255

    def __call__(self, pixels: UInt8[Any, "*batch H W 3"]) -> Float[Any, "*batch H W 3"]:
        """Return pixels normalised, float32; those on a device stay there."""
        mean, deviation = np.array([self.mean, self.deviation], np.float32)
        return pixels * (1 / (self.white * deviation)) - mean / deviation


# Mean and deviation of the images of ImageNet.
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set: where its raw examples come from and how they become model inputs.

    A transform takes a raw example to {"image": uint8 (H, W, 3), "label": int32 () or (H, W)}, and
    to "image_label" int32 () as well if `image_labels` is set. Keys and shapes are the same for
    every example. The training transform may draw from its generator, whose seed is the example's
    position. Opening or transforming a raw example that cannot be read raises BadRecordError.

    Attributes:
      task: "classification", one label for each image, or "segmentation", one label for each pixel.
        Pixels with the label `IGNORE` do not count.
      class_names: names of the labels 0, 1, ...
      image_size: (H, W) of a training example.
      eval_image_size: returns (H, W) of an evaluation example; it may open files.
      open_train: returns the raw training examples, in a fixed order.
      open_eval: returns the raw evaluation examples, in a fixed order.
      train_transform: (raw example, generator) to example.
      eval_transform: (raw example, `eval_image_size`) to example.
      normalise: from the pixels of examples to model inputs, on the device of the pixels.
      fit: from any RGB image to one like those that a classifier is evaluated on.
      image_labels: whether a data set for segmentation has a label for each image as well.
    """

    task: Literal["classification", "segmentation"]
    class_names: tuple[str, ...]
    image_size: Size
    eval_image_size: Callable[[], Size]
    open_train: Callable[[], Sequence[Example]]
    open_eval: Callable[[], Sequence[Example]]
    train_transform: Callable[[Example, np.random.Generator], Example]
    eval_transform: Callable[[Example, Size], Example]
    normalise: Normalisation
    fit: Callable[[Pixels], Pixels]
    image_labels: bool = False


def require_image_size(data: DataConfig, size: tuple[int, int]) -> None:
    """Check the configured image sizes of a data set whose images all have one size.

    Args:
      data: the data section of the config.
      size: (H, W) of the data set's images.

    Raises:
      ValueError: `data.image_size` or `data.eval_image_size` differs.
    """
    for field in ("image_size", "eval_image_size"):
        value = getattr(data, field)
        if value is not None and value != size:
            raise ValueError(
                f"config.data.{field} is {value}, but images of {data.name!r} are {size}; set it to"
                " that."
            )


def require_root(data: DataConfig, layout: str) -> Path:
    """Return `data.root`; if it is not set, raise ValueError with the layout that it needs."""
    if data.root is None:
        raise ValueError(
            f"config.data.root is not set; set it to a folder ROOT that holds {layout}."
        )
    return Path(data.root)
