"""Checkpointable iterators over batches of a data set: shuffled, as streams in order, or one pass.

A record is raw, as the data set stores it. A transform makes an example of it: a dict of arrays and
numbers whose keys and shapes are the same for every record. A batch stacks examples: each of its
arrays has a leading axis of rows.

With b = batch size / `process_count`, each process yields b rows of every batch. The rows of
processes 0, 1, ..., in that order, are the batch that a single process yields.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import jax
import numpy as np

from mdeq_jax.training.batches import BatchIterator
from mdeq_jax.training.config import DataConfig
from mdeq_jax.training.reader import Example, Reader


def shuffled_batches(
    records: Sequence[Any],
    transform: Callable[[Any, np.random.Generator], Example],
    options: DataConfig,
    *,
    seed: int,
    process_index: int | None = None,
    process_count: int | None = None,
    prepare_process: Callable[[], None] | None = None,
) -> BatchIterator:
    """Return endless training batches, each epoch shuffled anew.

    An epoch drops its last len(records) % batch_size examples. A record that cannot be read is
    replaced by the next one.

    Args:
      records: raw records by position, in a fixed order.
      transform: (record, generator) to example. The generator's seed follows from `seed` and the
        position of the example in the shuffled order. Raises BadRecordError if the record is bad.
      options: the section ``data`` of the config, which says how batches are made.
      seed: seed of shuffling and of the generators, in [0, 2³²); the same in all processes.
      process_index: index of this process, in [0, process_count); None asks JAX.
      process_count: number of training processes; None asks JAX.
      prepare_process: called before the first batch in every process that makes batches, for
        instance to limit the threads of a library.

    Raises:
      ValueError: the batch size is not a multiple of `process_count`, or is above the number of
        records. From the iterator: more records are bad than allowed.
    """
    index, count = _this_process(process_index, process_count)
    reader, share = _open_for_training(records, options, count)

    def example(position: int, generator: np.random.Generator) -> Example:
        return reader.read(position, lambda record: transform(record, generator)).example

    examples = grain.MapDataset.range(len(reader)).seed(seed).shuffle().random_map(example)
    whole = len(reader) // options.batch_size * options.batch_size
    batches = examples[:whole].batch(share)[index::count]
    return _iterate(batches.repeat(), options, prepare_process)


def ordered_batches(
    records: Sequence[Any],
    transform: Callable[[Any], Example],
    options: DataConfig,
    *,
    process_index: int | None = None,
    process_count: int | None = None,
    prepare_process: Callable[[], None] | None = None,
) -> BatchIterator:
    """Return endless training batches of streams: row r continues row r of the batch before.

    With n = ⌊len(records) / batch_size⌋ batches in an epoch, row r of batch t holds record r n + t.
    An epoch drops the records from n · batch_size on. Every epoch is the same.

    Args:
      records: raw records in the order of time, such as pieces of a text or frames of a film.
      transform: record to example. An example may say {"reset": True} if its record does not
        continue the one before, as at the beginning of a film. Raises BadRecordError if the record
        is bad; the next record then takes its place, with "reset".
      options: the section ``data`` of the config, which says how batches are made.
      process_index: index of this process, in [0, process_count); None asks JAX.
      process_count: number of training processes; None asks JAX.
      prepare_process: called before the first batch in every process that makes batches, for
        instance to limit the threads of a library.

    Returns:
      The batches. "reset", bool (b,), is True where a stream begins anew: in the first batch of an
      epoch, and where the example says so. A carry must not be taken over there.

    Raises:
      ValueError: the batch size is not a multiple of `process_count`, or is above the number of
        records. From the iterator: more records are bad than allowed.
    """
    index, count = _this_process(process_index, process_count)
    reader, share = _open_for_training(records, options, count)
    length = len(reader) // options.batch_size

    def row(position: int) -> Example:
        step, stream = divmod(position, options.batch_size)
        place = stream * length + step
        read = reader.read(place, transform)
        anew = step == 0 or read.index != place or read.example.get("reset", False)
        return {**read.example, "reset": np.bool_(anew)}

    rows = grain.MapDataset.range(length * options.batch_size).map(row)
    batches = rows.batch(share)[index::count]
    return _iterate(batches.repeat(), options, prepare_process)


def eval_batches(
    records: Sequence[Any],
    transform: Callable[[Any], Example],
    options: DataConfig,
    *,
    process_index: int | None = None,
    process_count: int | None = None,
    prepare_process: Callable[[], None] | None = None,
) -> BatchIterator:
    """Return the batches of one pass in order, for evaluation.

    Every process yields the same number of batches. The last batch is padded with the last example.

    Args:
      records: raw records by position, in a fixed order.
      transform: record to example. Raises BadRecordError if the record is bad.
      options: how batches are made; `eval_batch_size` is the number of rows.
      process_index: index of this process, in [0, process_count); None asks JAX.
      process_count: number of processes; None asks JAX.
      prepare_process: called before the first batch in every process that makes batches, for
        instance to limit the threads of a library.

    Returns:
      The batches. "mask", bool (b,), is True exactly once per readable record over all batches of
      all processes; it is False for padding and for an example that replaces a bad record.

    Raises:
      ValueError: the batch size is not a multiple of `process_count`. From the iterator: more
        records are bad than allowed.
    """
    index, count = _this_process(process_index, process_count)
    share = _share("eval_batch_size", options.eval_batch_size, count)
    reader = Reader(records, options.max_bad_records)

    def row(position: int) -> Example:
        read = reader.read(min(position, len(reader) - 1), transform)
        return {**read.example, "mask": np.bool_(read.index == position)}

    padded = -(-len(reader) // options.eval_batch_size) * options.eval_batch_size
    batches = grain.MapDataset.range(padded).map(row).batch(share)
    return _iterate(batches[index::count], options, prepare_process)


def _this_process(index: int | None, count: int | None) -> tuple[int, int]:
    """Return index and count of the processes, with JAX's in place of None."""
    return (
        jax.process_index() if index is None else index,
        jax.process_count() if count is None else count,
    )


def _open_for_training(
    records: Sequence[Any], options: DataConfig, process_count: int
) -> tuple[Reader, int]:
    """Return the reader and this process's share of the batch size, both checked."""
    share = _share("batch_size", options.batch_size, process_count)
    if options.batch_size > len(records):
        raise ValueError(
            f"config.data.batch_size is {options.batch_size}, more than the {len(records)} training"
            " examples; use at most that many."
        )
    return Reader(records, options.max_bad_records), share


def _share(key: str, batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise ValueError(
            f"config.data.{key} is {batch_size}, which cannot be shared among {process_count} "
            f"processes; use a multiple of {process_count}."
        )
    return batch_size // process_count


def _iterate(
    batches: grain.MapDataset, options: DataConfig, prepare_process: Callable[[], None] | None
) -> BatchIterator:
    return BatchIterator(
        batches,
        threads=options.threads,
        workers=options.workers,
        prepare_process=prepare_process,
    )
