"""Results of long measurements in a file, so that the same command continues."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Results:
    """Rows of a file with one JSON object per line; a row in the file is not measured again."""

    def __init__(self, path: Path):
        """Read the rows, if the file exists; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def find(self, key: Row, measure: Callable[[], Row]) -> Row:
        """Return the row with the values of `key`; without one, measure and write it.

        Args:
          key: what tells the row from all others, of JSON types.
          measure: returns the other values of the row, of JSON types.
        """
        for row in self.rows:
            if key.items() <= row.items():
                return row
        row = key | measure()
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row
