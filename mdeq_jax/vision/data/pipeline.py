"""Grain pipelines: each process's share of the batches for training and evaluation."""

from collections.abc import Callable
from typing import NamedTuple

import cv2

from mdeq_jax.training import loaders
from mdeq_jax.training.batches import BatchIterator
from mdeq_jax.training.sections import suggestion
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data.cifar10 import cifar10
from mdeq_jax.vision.data.cityscapes import cityscapes
from mdeq_jax.vision.data.classification_folder import folder
from mdeq_jax.vision.data.dataset import Dataset
from mdeq_jax.vision.data.digit_scenes import digit_scenes
from mdeq_jax.vision.data.digits import digits
from mdeq_jax.vision.data.imagenet2012 import imagenet2012
from mdeq_jax.vision.data.segmentation_folder import seg_folder

DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "digits": digits,
    "cifar10": cifar10,
    "imagenet2012": imagenet2012,
    "folder": folder,
    "digit_scenes": digit_scenes,
    "cityscapes": cityscapes,
    "seg_folder": seg_folder,
}


class DatasetInfo(NamedTuple):
    """Sizes of a data set.

    Attributes:
      train_examples: number of examples in the training split.
      eval_examples: number of examples in the evaluation split.
      image_shape: (H, W, C) of a training image.
    """

    train_examples: int
    eval_examples: int
    image_shape: tuple[int, ...]


def find_dataset(data: DataConfig) -> Dataset:
    """Return the configured data set; its examples need not exist.

    Args:
      data: the data section of the config.

    Raises:
      ValueError: the name is unknown, the data set has another image size, or "folder" or
        "seg_folder" has no classes.
    """
    if data.name not in DATASETS:
        known, near = ", ".join(DATASETS), suggestion(data.name, DATASETS)
        raise ValueError(f"config.data.name is {data.name!r}; it must be one of {known}.{near}")
    return DATASETS[data.name](data)


def dataset_info(data: DataConfig) -> DatasetInfo:
    """Return the sizes of the configured data set, which is prepared if necessary.

    Args:
      data: the data section of the config.

    Returns:
      The sizes.

    Raises:
      ValueError: the name is unknown, the data set has another image size, a folder cannot be
        written, or files are missing.
    """
    dataset = find_dataset(data)
    return DatasetInfo(
        train_examples=len(dataset.open_train()),
        eval_examples=len(dataset.open_eval()),  # missing files raise here
        image_shape=(*dataset.image_size, 3),
    )


def train_iterator(
    data: DataConfig,
    *,
    seed: int,
    process_index: int | None = None,
    process_count: int | None = None,
    dataset: Dataset | None = None,
) -> BatchIterator:
    """Return endless training batches: "image" uint8 (b, H, W, 3) and "label".

    A label is int32 (b,), or (b, H, W) for segmentation, where 255 is ignored. A segmentation batch
    may have "image_label" int32 (b,) as well. Each epoch is shuffled anew and drops its last len %
    batch_size examples. With b = batch_size / process_count, the rows of processes 0, 1, ..., in
    that order, are the batch that a single process yields.

    Args:
      data: the data section of the config; batch_size is the total over all processes.
      seed: seed of shuffling and augmentation, in [0, 2**32); the same in all processes.
      process_index: index of this process, in [0, process_count); None asks JAX.
      process_count: number of processes; None asks JAX.
      dataset: the data set; None finds the configured one.

    Returns:
      An iterator whose position get_state and set_state save and restore exactly.

    Raises:
      ValueError: the name is unknown, the data set has another image size, the batch size does not
        fit, a folder cannot be written, or files are missing. From the iterator: too many examples
        cannot be read.
    """
    dataset = dataset or find_dataset(data)
    return loaders.shuffled_batches(
        dataset.open_train(),
        dataset.train_transform,
        data,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        prepare_process=_use_one_thread_per_image,
    )


def eval_batches(
    data: DataConfig,
    *,
    process_index: int | None = None,
    process_count: int | None = None,
    dataset: Dataset | None = None,
) -> BatchIterator:
    """Return one ordered pass: "image" uint8 (b, H, W, 3), "label", and "mask" bool (b,).

    A label is int32 (b,), or (b, H, W) for segmentation, where 255 is ignored: it marks void pixels
    and padding. Over all batches of all processes the mask is True exactly once per example. Every
    process yields the same number of batches; padding repeats the last example with mask False.

    Args:
      data: the data section of the config; eval_batch_size is the total over all processes.
      process_index: index of this process, in [0, process_count); None asks JAX.
      process_count: number of processes; None asks JAX.
      dataset: the data set; None finds the configured one.

    Returns:
      The batches, b = eval_batch_size / process_count.

    Raises:
      ValueError: the name is unknown, the data set has another image size, the batch size does not
        fit, a folder cannot be written, or files are missing. From the iterator: too many examples
        cannot be read.
    """
    dataset = dataset or find_dataset(data)
    transform, size = dataset.eval_transform, dataset.eval_image_size()
    return loaders.eval_batches(
        dataset.open_eval(),
        lambda record: transform(record, size),
        data,
        process_index=process_index,
        process_count=process_count,
        prepare_process=_use_one_thread_per_image,
    )


def _use_one_thread_per_image() -> None:
    cv2.setNumThreads(0)  # Grain's threads share the cores
