"""Grain pipelines: batches for training and for evaluation, each process its share."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import grain
import numpy as np

from mdeq_jax.config import DataConfig
from mdeq_jax.data.cityscapes import cityscapes
from mdeq_jax.data.dataset import Dataset, Example
from mdeq_jax.data.digit_scenes import digit_scenes
from mdeq_jax.data.digits import digits
from mdeq_jax.data.seg_folder import seg_folder

DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "digits": digits,
    "digit_scenes": digit_scenes,
    "cityscapes": cityscapes,
    "seg_folder": seg_folder,
}

Batch = dict[str, np.ndarray]


class DatasetInfo(NamedTuple):
    """Sizes of a data set.

    Attributes:
      train_examples: number of examples in the training split.
      eval_examples: number of examples in the evaluation split.
      image_shape: (H, W, C) of an image trained on.
      num_classes: number of labels.
    """

    train_examples: int
    eval_examples: int
    image_shape: tuple[int, ...]
    num_classes: int


def find_dataset(data: DataConfig) -> Dataset:
    """Return the configured data set, whose examples need not be there.

    Args:
      data: the data section of the config.

    Raises:
      ValueError: unknown name, another image size, or for "seg_folder" no classes.
    """
    if data.name not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"data.name={data.name!r} is not a data set; known: {known}.")
    return DATASETS[data.name](data)


def dataset_info(data: DataConfig) -> DatasetInfo:
    """Sizes of the configured data set, which is prepared if it is not yet.

    Args:
      data: the data section of the config.

    Returns:
      The sizes.

    Raises:
      ValueError: unknown name, another image size, a folder that cannot be written, or files that
        are missing.
    """
    dataset = find_dataset(data)
    return DatasetInfo(
        train_examples=len(dataset.open_train()),
        eval_examples=len(dataset.open_eval()),
        image_shape=(*dataset.image_size, 3),
        num_classes=len(dataset.class_names),
    )


def train_iterator(
    data: DataConfig, *, seed: int, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator[Batch]:
    """Endless training batches: "image" float32 (b, H, W, 3) and "label".

    A label is int32 (b,), or (b, H, W) for segmentation, where 255 is to be ignored; beside the
    latter there may be "image_label" int32 (b,). Each epoch is shuffled anew and drops its last
    len % batch_size examples. With b = batch_size / process_count, the batches of processes 0, 1,
    ... in that order are the batch of one process.

    Args:
      data: the data section of the config; batch_size is that of all processes together.
      seed: of shuffling and augmentation, in [0, 2**32); the same in all processes.
      process_index: which share to yield, in [0, process_count).
      process_count: number of processes.

    Returns:
      An iterator whose position get_state and set_state save and restore exactly.

    Raises:
      ValueError: unknown name, another image size, a batch size that does not fit, a folder that
        cannot be written, or files that are missing; from the iterator, a file that is broken.
    """
    dataset = find_dataset(data)
    share = _share("data.batch_size", data.batch_size, process_count)
    source = dataset.open_train()
    if data.batch_size > len(source):
        raise ValueError(
            f"data.batch_size={data.batch_size} exceeds the {len(source)} training examples of"
            f" {data.name!r}; use at most that many."
        )
    examples = grain.MapDataset.source(source).seed(seed).shuffle()
    whole = len(source) // data.batch_size * data.batch_size
    batches = examples.random_map(dataset.train_transform)[:whole].batch(share)
    return _read_ahead(batches[process_index::process_count].repeat(), data.threads)


def eval_batches(
    data: DataConfig, *, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """One ordered pass: "image" float32 (b, H, W, 3), "label", and "mask" bool (b,).

    A label is int32 (b,), or (b, H, W) for segmentation, where 255 is to be ignored: what is void,
    and where an image is padded. Over all batches of all processes the mask is true exactly once
    per example. Every process yields the same number of batches; padding repeats the last example
    under a false mask.

    Args:
      data: the data section of the config; eval_batch_size is that of all processes together.
      process_index: which share to yield, in [0, process_count).
      process_count: number of processes.

    Returns:
      The batches, b = eval_batch_size / process_count.

    Raises:
      ValueError: unknown name, another image size, a batch size that does not fit, a folder that
        cannot be written, or files that are missing; from the iterator, a file that is broken.
    """
    dataset = find_dataset(data)
    share = _share("data.eval_batch_size", data.eval_batch_size, process_count)
    source = dataset.open_eval()
    last, size = len(source) - 1, dataset.eval_image_size()

    def row(position: int) -> Example:
        example = dataset.eval_transform(source[min(position, last)], size)
        return {**example, "mask": np.bool_(position <= last)}

    padded = -(-len(source) // data.eval_batch_size) * data.eval_batch_size
    batches = grain.MapDataset.range(padded).map(row).batch(share)
    return _read_ahead(batches[process_index::process_count], data.threads)


def _read_ahead(batches: grain.MapDataset, threads: int) -> grain.DatasetIterator[Batch]:
    """Read with as many batches ahead as there are threads to make them."""
    cv2.setNumThreads(0)  # one image is one thread's work
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(batches.to_iter_dataset(options))


def _share(key: str, batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise ValueError(
            f"{key}={batch_size} cannot be shared among {process_count} processes; use a multiple"
            f" of {process_count}."
        )
    return batch_size // process_count
