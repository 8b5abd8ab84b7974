"""Train a multiscale deep equilibrium model.

    python train.py --config configs/digits.py --workdir runs/digits --config.seed=1
    mdeq-train --config digits --workdir runs/digits     # the same of an installed package

Run again with the same arguments, it goes on from the last checkpoint. The last line on stdout is
one JSON object with the final metrics.

On several hosts, start it once on each: TPU pods, Slurm's srun and Open MPI's mpirun tell the
processes of each other; else --coordinator=HOST:PORT --process_count=N --process_id=I does.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from mdeq_jax.commands import cli
from mdeq_jax.runtime.hosts import is_main
from mdeq_jax.training.checkpoints import LATEST
from mdeq_jax.training.loop import train
from mdeq_jax.training.metrics import NonFiniteError
from mdeq_jax.training.optim import batch_size_warning
from mdeq_jax.vision.config import Config

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and pictures.", required=True
)
_PROFILE = flags.DEFINE_bool(
    "profile", False, "Record a trace of a few steps in WORKDIR/profile, for TensorBoard."
)


def main(config: Config) -> dict[str, Any]:
    """Train in the workdir, or go on training there."""
    warning = batch_size_warning(config, cli.recipe())
    if warning and is_main():
        print(f"warning: {warning}", file=sys.stderr)
    try:
        return train(config, Path(_WORKDIR.value), profile=_PROFILE.value)
    except NonFiniteError as error:
        folder = Path(_WORKDIR.value) / LATEST
        kept = f" The last good checkpoint is kept in {folder}." if any(folder.iterdir()) else ""
        cli.fail(
            f"{error}; training stopped.{kept} Lower config.optim.learning_rate or set "
            "config.optim.clip_norm, and start in another --workdir.",
            code=1,
        )


def run() -> None:
    """Run the command under the flags of the process."""
    cli.run(main, on_hosts=True)
