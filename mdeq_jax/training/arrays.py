"""Batches of a data set that lies in memory as arrays, the samples first."""

from collections.abc import Iterator

import grain
import jax
import numpy as np

from mdeq_jax.training.batches import BatchIterator
from mdeq_jax.training.config import DataConfig
from mdeq_jax.training.experiment import HostBatch

# More batches than any run takes.
_ENDLESS = 2**40


def shuffled_batches(arrays: HostBatch, data: DataConfig, seed: int) -> BatchIterator:
    """Return this process's share of endless batches, each epoch in an order of its own.

    An epoch leaves out n % batch_size samples, which are others in each epoch. Every process has
    consecutive rows of the batch that one process would have.

    Args:
      arrays: the data set, each array (n, ...), the same in all processes.
      data: the section of the config, for the batch size and the threads.
      seed: seed of the order, in [0, 2³²).

    Raises:
      ValueError: there are fewer samples than a batch has, or the batch cannot be shared.
    """
    n, size, share = _rows(arrays), data.batch_size, _share("batch_size", data.batch_size)
    if size > n:
        raise ValueError(
            f"config.data.batch_size is {size}, more than the {n} training samples; use at most "
            "that many."
        )
    own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)

    def batch(number: int) -> HostBatch:
        epoch, place = divmod(number, n // size)
        order = np.random.default_rng((seed, epoch)).permutation(n)
        return _take(arrays, order[place * size : (place + 1) * size][own])

    return BatchIterator(grain.MapDataset.range(_ENDLESS).map(batch), data)


def padded_batches(arrays: HostBatch, data: DataConfig) -> Iterator[HostBatch]:
    """Return this process's share of one ordered pass, with "mask" (b,), False at padding.

    The last sample fills up the last batch, so that all batches have the same size.

    Args:
      arrays: the data set, each array (n, ...), the same in all processes.
      data: the section of the config, for the size of an evaluation batch.

    Raises:
      ValueError: the batch cannot be shared.
    """
    n, share = _rows(arrays), _share("eval_batch_size", data.eval_batch_size)
    first = jax.process_index() * share
    for start in range(0, n, data.eval_batch_size):
        rows = start + first + np.arange(share)
        yield {**_take(arrays, np.minimum(rows, n - 1)), "mask": rows < n}


def _take(arrays: HostBatch, rows: np.ndarray) -> HostBatch:
    return {name: array[rows] for name, array in arrays.items()}


def _rows(arrays: HostBatch) -> int:
    return len(next(iter(arrays.values())))


def _share(key: str, size: int) -> int:
    """Return this process's rows of a batch."""
    processes = jax.process_count()
    if size % processes:
        raise ValueError(
            f"config.data.{key} is {size}, which cannot be shared among {processes} processes; use "
            f"a multiple of {processes}."
        )
    return size // processes
