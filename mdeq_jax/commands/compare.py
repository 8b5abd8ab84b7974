"""Train a config under several settings and write one report.

    python -m mdeq_jax.commands.compare --config configs/digits.py --workdir runs/compare
    python -m mdeq_jax.commands.compare --config digits --workdir runs/compare --groups=steps,stem

Run again with the same arguments, it goes on where it was stopped. The report is `report.md` and
`report.png` in the workdir. The last line on stdout is one JSON object.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from absl import flags

from mdeq_jax.commands import cli
from mdeq_jax.comparison.compare import compare
from mdeq_jax.comparison.settings import GROUPS
from mdeq_jax.vision.config import Config

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for the report and for each run.", required=True
)
_GROUPS = flags.DEFINE_list("groups", list(GROUPS), "Groups of settings to compare; all of them.")


def main(config: Config) -> dict[str, Any]:
    """Run the comparison in the workdir, or go on with it."""
    command = shlex.join(["python", "-m", "mdeq_jax.commands.compare", *sys.argv[1:]])
    return compare(config, Path(_WORKDIR.value), _GROUPS.value, command)


if __name__ == "__main__":
    cli.run(main)
