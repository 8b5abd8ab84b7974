"""What the pipeline has to know of a data set; each data set is one file beside this one."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mdeq_jax.config import DataConfig

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set: where its raw examples come from and how they become model inputs.

    A transform takes a raw example to {"image": float32 (H, W, 3), "label": int32 ()}; the one for
    training may draw from the generator it is given, whose seed is the example's position.

    Attributes:
      train_split: name of the split trained on.
      eval_split: name of the split evaluated on.
      image_shape: (H, W, C) of a transformed image.
      num_classes: number of labels, which are 0 to num_classes - 1.
      open_split: (config, split) to the raw examples of that split, in a fixed order.
      train_transform: (raw example, generator) to example, with augmentation.
      eval_transform: raw example to example.
    """

    train_split: str
    eval_split: str
    image_shape: tuple[int, int, int]
    num_classes: int
    open_split: Callable[[DataConfig, str], Sequence[Example]]
    train_transform: Callable[[Example, np.random.Generator], Example]
    eval_transform: Callable[[Example], Example]
