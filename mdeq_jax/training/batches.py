"""Batches prepared in advance by threads, in this process or in worker processes."""

import weakref
from collections.abc import Callable

import grain
import numpy as np
from absl import flags

Batch = dict[str, np.ndarray]


class BatchIterator(grain.DatasetIterator[Batch]):
    """The batches of a data set in order, independent of the number of threads and workers.

    The position is the number of batches taken, and does not count batches prepared in advance. It
    can therefore be restored with another number of threads, workers or training processes.
    """

    def __init__(
        self,
        batches: grain.MapDataset[Batch],
        *,
        threads: int,
        workers: int,
        prepare_process: Callable[[], None] | None = None,
    ):
        """Begin with the first batch.

        Args:
          batches: all batches, by number.
          threads: number of threads that make batches, in this process or in each worker; at least
            1. Each prepares one batch in advance.
          workers: number of worker processes; with 0, this process makes the batches.
          prepare_process: called in this process and in each worker before the first batch.
        """
        super().__init__()
        self._batches, self._threads, self._workers = batches, threads, workers
        self._prepare_process = prepare_process or (lambda: None)
        self._position = 0
        self._ahead: grain.DatasetIterator[Batch] | None = None

    def __next__(self) -> Batch:
        """Return the next batch."""
        self._assert_not_closed()
        batch = next(self._started())
        self._position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Return the position, for `set_state`."""
        return {"next_index": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Go to a position that `get_state` returned."""
        self._stop()
        self._position = state["next_index"]

    def start_prefetch(self) -> None:
        """Begin to make batches."""
        self._started()

    def close(self) -> None:
        """End threads and workers; there are no more batches."""
        super().close()
        self._stop()

    def _started(self) -> grain.DatasetIterator[Batch]:
        if self._ahead is None:
            self._ahead = iter(self._read_ahead(self._batches[self._position :]))
            # Workers must end before the interpreter takes their queues apart.
            weakref.finalize(self, self._ahead.close)
        return self._ahead

    def _read_ahead(self, batches: grain.MapDataset[Batch]) -> grain.IterDataset[Batch]:
        """Prepare as many batches in advance as there are threads."""
        prepare = self._prepare_process
        prepare()
        threads = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads)
        ahead = batches.to_iter_dataset(threads)
        if not self._workers:
            return ahead
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks for them; there need not be a command line
        processes = grain.MultiprocessingOptions(
            self._workers, per_worker_buffer_size=self._threads
        )
        return ahead.mp_prefetch(processes, lambda index, count: prepare())

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
