"""Examples that can be read, in place of those that cannot."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import logging

from mdeq_jax.vision.data.dataset import Example
from mdeq_jax.vision.data.decoding import BadRecordError


class Read(NamedTuple):
    """An example, and which it is.

    Attributes:
      example: as the transform made it.
      index: its place in the data set.
    """

    example: Example
    index: int


class Reader:
    """Reads examples, and counts those that are bad."""

    def __init__(self, source: Sequence[Example], max_bad_records: int):
        """Read a data set.

        Args:
          source: raw examples.
          max_bad_records: how many of them may be bad.
        """
        self._source, self._limit = source, max_bad_records
        self._bad: set[str] = set()

    def __len__(self) -> int:
        """Return the number of examples, bad ones included."""
        return len(self._source)

    def read(self, index: int, transform: Callable[[Example], Example]) -> Read:
        """Return an example, or if it is bad the next one that is not.

        Which one it is follows from the data alone, not from threads, workers or what was read.

        Args:
          index: of the example.
          transform: raises BadRecordError where a raw example cannot be read.

        Raises:
          ValueError: more examples than allowed are bad, or all.
        """
        for attempt in range(len(self)):
            found = (index + attempt) % len(self)
            try:
                return Read(transform(self._source[found]), found)
            except BadRecordError as error:
                self._count(error)
        raise ValueError(f"none of {len(self)} examples can be read; check where they are stored.")

    def _count(self, error: BadRecordError) -> None:
        if error.name in self._bad:
            return
        self._bad.add(error.name)
        if len(self._bad) > self._limit:
            raise ValueError(
                f"{len(self._bad)} examples cannot be read, more than config.data.max_bad_records="
                f"{self._limit}; mend them, or allow for more. The last: {error}"
            ) from error
        logging.warning("left out %d of at most %d: %s", len(self._bad), self._limit, error)
