"""Train a config under several settings and write one report.

    python -m mdeq_jax.commands.compare --config configs/digits.py --workdir runs/compare
    python -m mdeq_jax.commands.compare --config digits --workdir runs/compare --groups=steps,stem

The same command continues a comparison that was stopped. The report is `report.md` and `report.png`
in the workdir. The last line on stdout is one JSON object.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from mdeq_jax.commands import cli
from mdeq_jax.comparison.compare import compare
from mdeq_jax.comparison.settings import GROUPS
from mdeq_jax.vision.config import Config, finalize


def main(config: Config, workdir: Path, groups: Sequence[str]) -> dict[str, Any]:
    """Run the comparison in a workdir, or continue it.

    Args:
      config: the base that every setting changes.
      workdir: folder for the report and for each run.
      groups: groups of settings, keys of `GROUPS`.
    """
    command = shlex.join(["python", "-m", "mdeq_jax.commands.compare", *sys.argv[1:]])
    return compare(config, workdir, groups, command)


def run() -> None:
    """Run the command under the flags of the process."""
    config = cli.ConfigFlag(finalize)
    workdir = flags.DEFINE_string(
        "workdir", None, "Folder for the report and for each run.", required=True
    )
    groups = flags.DEFINE_list("groups", list(GROUPS), "Groups of settings to compare.")
    cli.run(__doc__, lambda: main(config.value, Path(workdir.value), groups.value))


if __name__ == "__main__":
    run()
