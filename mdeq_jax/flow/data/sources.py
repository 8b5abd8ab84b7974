"""The pairs of images that a run is trained and evaluated on, in the form that the loaders take."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdeq_jax.flow.config import DataConfig
from mdeq_jax.flow.data import shapes
from mdeq_jax.flow.data.datasets import Record, read_example
from mdeq_jax.flow.data.mixtures import evaluation_records, training_example, training_records
from mdeq_jax.flow.model.config import FACTOR
from mdeq_jax.flow.padding import padding_of
from mdeq_jax.images.decoding import size_of
from mdeq_jax.images.files import read_file
from mdeq_jax.training.reader import Example

# Generated scenes of the evaluation are the same whatever the seed of the run.
_EVALUATION_SEED = 0


class Source(NamedTuple):
    """Records, and how an example is made of one.

    Attributes:
      records: raw records by position.
      example: (record, generator) to example in training, record to example in evaluation. An
        example has "first" and "second", uint8 (H, W, 3), "flow", float32 (H, W, 2) in pixels, and
        "valid", bool (H, W).
    """

    records: Sequence[Any]
    example: Callable[..., Example]


def training_source(data: DataConfig) -> Source:
    """Return the pairs of a stage, which are augmented, or scenes, which are generated.

    Raises:
      ValueError: files are missing, or `data.root` is.
    """
    if data.stage != "shapes":
        records = training_records(_root(data, data.stage), data.stage)
        return Source(records, functools.partial(training_example, crop=data.crop))

    def scene(number: int, generator: np.random.Generator) -> Example:
        return _without_occlusion(
            shapes.scene(generator, data.crop, data.max_motion, data.objects, "train")
        )

    return Source(range(data.scenes), scene)


def evaluation_source(data: DataConfig, name: str) -> Source:
    """Return the pairs of an evaluation set, padded to multiples of 8.

    Images of KITTI have several sizes. If a batch has more than one row, they are all padded to the
    largest of the sizes, which the published figures do not do.

    Args:
      data: the section ``data`` of the config.
      name: a name of `EvaluationConfig.sets`.

    Raises:
      ValueError: files are missing, or `data.root` is.
    """
    if name != "shapes":
        records = evaluation_records(_root(data, name), name)
        target = _largest_size(records) if name == "kitti" and data.eval_batch_size > 1 else None
        return Source(records, functools.partial(_padded_example, name=name, target=target))

    size = data.eval_size or data.crop

    def scene(number: int) -> Example:
        return _without_occlusion(
            shapes.example(number, _EVALUATION_SEED, "test", size, data.max_motion, data.objects)
        )

    return Source(range(data.eval_scenes), scene)


def _root(data: DataConfig, what: str) -> str:
    if data.root is None:
        raise ValueError(
            f"config.data.root is None, but {what!r} is read from files; give the folder that holds"
            " the data sets, or take 'shapes' for config.data.stage and config.evaluation.sets."
        )
    return data.root


def _without_occlusion(scene: Example) -> Example:
    return {name: array for name, array in scene.items() if name != "occluded"}


def _padded_example(record: Record, name: str, target: tuple[int, int] | None) -> Example:
    """Return an example with padded images; pixels of the padding are not valid."""
    example = read_example(record)
    height, width = example["valid"].shape
    padding = padding_of(height, width, "kitti" if name == "kitti" else "sintel", target)
    padded = {key: padding.pad(example[key]) for key in ("first", "second", "flow")}
    top, bottom, left, right = padding
    return {**padded, "valid": np.pad(example["valid"], ((top, bottom), (left, right)))}


def _largest_size(records: Sequence[Record]) -> tuple[int, int]:
    """Return the largest height and width of the first images, in multiples of 8."""
    sizes = np.array([size_of(read_file(r.first), str(r.first)) for r in records])
    height, width = (-(-sizes.max(axis=0) // FACTOR) * FACTOR).tolist()
    return height, width
