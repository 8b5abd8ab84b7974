"""Batches made ahead of their use, by threads, and by worker processes where the config says so."""

import weakref

import cv2
import grain
import numpy as np
from absl import flags

from mdeq_jax.training.config import DataConfig

Batch = dict[str, np.ndarray]


class BatchIterator(grain.DatasetIterator[Batch]):
    """The batches of a data set in order, whoever makes them.

    Its position is the number of batches taken, whatever was made ahead, and so outlives a change
    of threads, workers, or processes of the training.
    """

    def __init__(self, batches: grain.MapDataset[Batch], data: DataConfig):
        """Begin with the first batch.

        Args:
          batches: by number.
          data: for threads and workers.
        """
        super().__init__()
        self._batches, self._data = batches, data
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
            self._ahead = _read_ahead(self._batches[self._position :], self._data)
            # So that workers end before the interpreter takes their queues apart.
            weakref.finalize(self, self._ahead.close)
        return self._ahead

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


def _read_ahead(batches: grain.MapDataset, data: DataConfig) -> grain.DatasetIterator[Batch]:
    """Read with as many batches ahead as there are threads to make them."""
    _use_one_thread_per_image()
    threads = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.threads)
    ahead = batches.to_iter_dataset(threads)
    if data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks for them; there need not be a command line
        processes = grain.MultiprocessingOptions(data.workers, per_worker_buffer_size=data.threads)
        ahead = ahead.mp_prefetch(processes, _use_one_thread_per_image)
    return iter(ahead)


def _use_one_thread_per_image(*_: int) -> None:
    cv2.setNumThreads(0)
