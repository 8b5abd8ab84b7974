"""Raw records read and transformed, with the next one in place of each that cannot be read."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import logging

Example = dict[str, Any]


class BadRecordError(ValueError):
    """A record cannot be read.

    Attributes:
      name: name of the record, for instance its file.
    """

    def __init__(self, name: str, problem: str):
        """Store what is wrong with a record.

        Args:
          name: name of the record.
          problem: what follows the name in the message.
        """
        super().__init__(name, problem)
        self.name, self._problem = name, problem

    def __str__(self) -> str:
        """Return the message."""
        return f"{self.name} {self._problem}"


class Read(NamedTuple):
    """An example and the record that it was made of.

    Attributes:
      example: what the transform returned.
      index: position of the record in the data set.
    """

    example: Example
    index: int


class Reader:
    """Reads records and counts the bad ones."""

    def __init__(self, records: Sequence[Any], max_bad_records: int):
        """Start with no bad records.

        Args:
          records: raw records, by position.
          max_bad_records: number of different records that may be bad.
        """
        self._records, self._limit = records, max_bad_records
        self._bad: set[str] = set()

    def __len__(self) -> int:
        """Return the number of records, including the bad ones."""
        return len(self._records)

    def read(self, index: int, transform: Callable[[Any], Example]) -> Read:
        """Return the example of a record, or of the next good record if that one is bad.

        The choice depends on the data alone, not on threads, workers or what was read before.

        Args:
          index: position of the record.
          transform: makes an example of a raw record. It raises BadRecordError if it cannot.

        Raises:
          ValueError: more records are bad than allowed, or all of them.
        """
        for attempt in range(len(self)):
            found = (index + attempt) % len(self)
            try:
                return Read(transform(self._records[found]), found)
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
