"""Data sets (TFDS) and input pipelines (Grain)."""

from mdeq_jax.vision.data.dataset import Dataset, Normalisation
from mdeq_jax.vision.data.pipeline import (
    DatasetInfo,
    dataset_info,
    eval_batches,
    find_dataset,
    train_iterator,
)

__all__ = [
    "Dataset",
    "DatasetInfo",
    "Normalisation",
    "dataset_info",
    "eval_batches",
    "find_dataset",
    "train_iterator",
]
