"""Train a config under several settings and write one report.

    python -m mdeq_jax.commands.compare --config configs/digits.py --workdir runs/compare
    python -m mdeq_jax.commands.compare --config digits --workdir runs/compare --groups=steps,stem

The same command continues a comparison that was stopped. The report is `report.md` and `report.png`
in the workdir. The last line on stdout is one JSON object.
"""

import shlex
import sys
from pathlib import Path

from absl import flags

from mdeq_jax.commands import cli
from mdeq_jax.comparison.compare import compare
from mdeq_jax.comparison.settings import GROUPS
from mdeq_jax.vision.config import finalize


def run() -> None:
    """Run the command under the flags of the process."""
    config = cli.ConfigFlag(finalize)
    workdir = flags.DEFINE_string(
        "workdir", None, "Folder for the report and for each run.", required=True
    )
    groups = flags.DEFINE_list("groups", list(GROUPS), "Groups of settings to compare.")
    command = shlex.join(["python", "-m", "mdeq_jax.commands.compare", *sys.argv[1:]])
    cli.run(__doc__, lambda: compare(config.value, Path(workdir.value), groups.value, command))


if __name__ == "__main__":
    run()
