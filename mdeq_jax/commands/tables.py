"""Tables that commands write, row after row."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


class Table:
    """A CSV file to which every row is written at once."""

    def __init__(self, path: Path, columns: Sequence[str]):
        """Write the header.

        Args:
          path: path of the file, which is replaced.
          columns: names of the columns.
        """
        self._path, self._columns = path, columns
        with path.open("w", newline="") as file:
            csv.DictWriter(file, columns).writeheader()

    def add(self, row: Mapping[str, object]) -> None:
        """Write a row; a column that it lacks stays empty."""
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)
