"""Data sets (TFDS) and input pipelines (Grain)."""

from mdeq_jax.data.pipeline import DatasetInfo, dataset_info, eval_batches, train_iterator

__all__ = ["DatasetInfo", "dataset_info", "eval_batches", "train_iterator"]
