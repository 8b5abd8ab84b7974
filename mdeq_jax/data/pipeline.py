"""Grain pipelines: batches for training and for evaluation, each process its share."""

from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np

from mdeq_jax.config import DataConfig
from mdeq_jax.data.dataset import Dataset, Example
from mdeq_jax.data.digits import DIGITS

DATASETS = {"digits": DIGITS}

Batch = dict[str, np.ndarray]

# One batch is made ahead, in a thread; small images need no more.
_READ_OPTIONS = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)


class DatasetInfo(NamedTuple):
    """Sizes of a data set.

    Attributes:
      train_examples: number of examples in the training split.
      eval_examples: number of examples in the evaluation split.
      image_shape: (H, W, C) of a model input.
      num_classes: number of labels.
    """

    train_examples: int
    eval_examples: int
    image_shape: tuple[int, int, int]
    num_classes: int


def dataset_info(data: DataConfig) -> DatasetInfo:
    """Sizes of the configured data set, which is prepared if it is not yet.

    Args:
      data: the data section of the config.

    Returns:
      The sizes.

    Raises:
      ValueError: unknown name, another image size, or a folder that cannot be written.
    """
    dataset = _find(data)
    return DatasetInfo(
        train_examples=len(dataset.open_split(data, dataset.train_split)),
        eval_examples=len(dataset.open_split(data, dataset.eval_split)),
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
    )


def train_iterator(
    data: DataConfig, *, seed: int, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator[Batch]:
    """Endless training batches: {"image": float32 (b, H, W, 3), "label": int32 (b,)}.

    Each epoch is shuffled anew and drops its last len % batch_size examples. With b = batch_size /
    process_count, the batches of processes 0, 1, ... in that order are the batch of one process.

    Args:
      data: the data section of the config; batch_size is that of all processes together.
      seed: of shuffling and augmentation, in [0, 2**32); the same in all processes.
      process_index: which share to yield, in [0, process_count).
      process_count: number of processes.

    Returns:
      An iterator whose position get_state and set_state save and restore exactly.

    Raises:
      ValueError: unknown name, another image size, a batch size that does not fit, or a folder that
        cannot be written.
    """
    dataset = _find(data)
    share = _share("data.batch_size", data.batch_size, process_count)
    source = dataset.open_split(data, dataset.train_split)
    if data.batch_size > len(source):
        raise ValueError(
            f"data.batch_size={data.batch_size} exceeds the {len(source)} training examples of"
            f" {data.name!r}; use at most that many."
        )
    examples = grain.MapDataset.source(source).seed(seed).shuffle()
    if data.augment:
        examples = examples.random_map(dataset.train_transform)
    else:
        examples = examples.map(dataset.eval_transform)
    whole = len(source) // data.batch_size * data.batch_size
    batches = examples[:whole].batch(share)[process_index::process_count].repeat()
    return iter(batches.to_iter_dataset(_READ_OPTIONS))


def eval_batches(
    data: DataConfig, *, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """One ordered pass: {"image": float32 (b, H, W, 3), "label": int32 (b,), "mask": bool (b,)}.

    Over all batches of all processes the mask is true exactly once per example. Every process
    yields the same number of batches; padding repeats the last example under a false mask.

    Args:
      data: the data section of the config; eval_batch_size is that of all processes together.
      process_index: which share to yield, in [0, process_count).
      process_count: number of processes.

    Returns:
      The batches, b = eval_batch_size / process_count.

    Raises:
      ValueError: unknown name, another image size, a batch size that does not fit, or a folder that
        cannot be written.
    """
    dataset = _find(data)
    share = _share("data.eval_batch_size", data.eval_batch_size, process_count)
    source = dataset.open_split(data, dataset.eval_split)
    last = len(source) - 1

    def row(position: int) -> Example:
        example = dataset.eval_transform(source[min(position, last)])
        return {**example, "mask": np.bool_(position <= last)}

    padded = -(-len(source) // data.eval_batch_size) * data.eval_batch_size
    batches = grain.MapDataset.range(padded).map(row).batch(share)[process_index::process_count]
    return iter(batches.to_iter_dataset(_READ_OPTIONS))


def _find(data: DataConfig) -> Dataset:
    if data.name not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"data.name={data.name!r} is not a data set; known: {known}.")
    dataset = DATASETS[data.name]
    if data.image_size != dataset.image_shape[:2]:
        raise ValueError(
            f"data.image_size={data.image_size}, but images of {data.name!r} are "
            f"{dataset.image_shape[:2]}; set it to that."
        )
    return dataset


def _share(key: str, batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise ValueError(
            f"{key}={batch_size} cannot be shared among {process_count} processes; use a multiple"
            f" of {process_count}."
        )
    return batch_size // process_count
