"""What each stage of training reads: which data sets, how often, and how they are augmented.

Source: `core/datasets.py`, locuslab/deq-flow.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mdeq_jax.checks import require_one_of
from mdeq_jax.flow.data.augmentation import RECIPES, Recipe, augment
from mdeq_jax.flow.data.datasets import Record, chairs, hd1k, kitti, read_example, sintel, things
from mdeq_jax.images.decoding import Size
from mdeq_jax.training.reader import Example

Listing = Callable[[Path], list[Record]]


class Part(NamedTuple):
    """A data set within a mixture.

    Attributes:
      records: from the root to the image pairs.
      recipe: how they are augmented.
      repeats: how often each pair occurs in an epoch.
    """

    records: Listing
    recipe: Recipe
    repeats: int = 1


class TrainingRecord(NamedTuple):
    """An image pair and how it is augmented."""

    record: Record
    recipe: Recipe


_THINGS_CLEAN = functools.partial(things, render="cleanpass")
_THINGS_FINAL = functools.partial(things, render="finalpass")
_SINTEL_CLEAN = functools.partial(sintel, split="training", render="clean")
_SINTEL_FINAL = functools.partial(sintel, split="training", render="final")
_KITTI = functools.partial(kitti, split="training")

MIXTURES: dict[str, tuple[Part, ...]] = {
    "chairs": (Part(functools.partial(chairs, split="training"), RECIPES["chairs"]),),
    "things": (
        Part(_THINGS_CLEAN, RECIPES["things"]),
        Part(_THINGS_FINAL, RECIPES["things"]),
    ),
    "sintel": (
        Part(_SINTEL_CLEAN, RECIPES["sintel"], repeats=100),
        Part(_SINTEL_FINAL, RECIPES["sintel"], repeats=100),
        Part(_KITTI, RECIPES["sintel_kitti"], repeats=200),
        Part(hd1k, RECIPES["sintel_hd1k"], repeats=5),
        Part(_THINGS_CLEAN, RECIPES["sintel"]),
    ),
    "kitti": (Part(_KITTI, RECIPES["kitti"]),),
}

EVALUATIONS: dict[str, Listing] = {
    "chairs": functools.partial(chairs, split="validation"),
    "sintel_clean": _SINTEL_CLEAN,
    "sintel_final": _SINTEL_FINAL,
    "kitti": _KITTI,
}


def training_records(root: str | Path, stage: str) -> list[TrainingRecord]:
    """Return the image pairs of an epoch in a fixed order, those that are repeated several times.

    Args:
      root: folder that holds the data sets.
      stage: "chairs", "things", "sintel" or "kitti".

    Raises:
      ValueError: the stage is another one, or a file or folder is missing.
    """
    require_one_of("stage", stage, tuple(MIXTURES))
    return [
        record
        for part in MIXTURES[stage]
        for record in part.repeats
        * [TrainingRecord(record, part.recipe) for record in part.records(Path(root))]
    ]


def training_example(
    training_record: TrainingRecord, generator: np.random.Generator, crop: Size
) -> Example:
    """Return an image pair, read and augmented.

    Args:
      training_record: an entry of `training_records`.
      generator: source of all random numbers.
      crop: (h, w), the size of the example.

    Returns:
      "first" and "second" uint8 (h, w, 3), "flow" float32 (h, w, 2) in pixels, "valid" bool (h, w).

    Raises:
      BadRecordError: a file cannot be read, the sizes differ, or the flow is nowhere valid.
      OSError: a folder has vanished.
    """
    return augment(read_example(training_record.record), training_record.recipe, crop, generator)


def evaluation_records(root: str | Path, name: str) -> list[Record]:
    """Return the image pairs of an evaluation set.

    Args:
      root: folder that holds the data sets.
      name: "chairs", the validation pairs, or "sintel_clean", "sintel_final" or "kitti", the
        training pairs.

    Raises:
      ValueError: the name is another one, or a file or folder is missing.
    """
    require_one_of("name", name, tuple(EVALUATIONS))
    return EVALUATIONS[name](Path(root))
