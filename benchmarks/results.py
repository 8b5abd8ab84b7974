"""Results of long measurements in a file, so that the same command continues."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mdeq_jax.training.config import AnyConfig, override

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


def measure_runs(
    workdir: Path,
    base: AnyConfig,
    settings: Mapping[str, Mapping[str, Any]],
    seeds: Iterable[int],
    measure: Callable[[AnyConfig, Path], Row],
) -> list[Row]:
    """Return a row for each seed and setting, from train.jsonl of a workdir or measured.

    Args:
      workdir: folder for the results. Each run has its own folder SETTING_SEED there.
      base: the config that the settings change.
      settings: dotted keys of the config by the name of the setting.
      seeds: the seeds.
      measure: trains a config in a folder, and returns the values of its row.
    """
    results, rows = Results(workdir / "train.jsonl"), []
    for seed in seeds:
        for setting, changes in settings.items():
            config = override(base, {**changes, "seed": seed})
            folder = workdir / f"{setting.replace(' ', '_')}_{seed}"
            key = {"setting": setting, "seed": seed, "train_steps": base.train.steps}
            rows.append(results.find(key, lambda c=config, f=folder: measure(c, f)))
    return rows
