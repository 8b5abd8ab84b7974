"""Train a model.

    python train.py --config configs/digits.py --workdir runs/digits --config.seed=1
    mdeq-train --config digits --workdir runs/digits     # the same, once installed

Run again with the same arguments, it goes on from the last checkpoint. The last line on stdout is
one JSON object with the final metrics.

On several hosts, start it once on each. On TPU pods, under Slurm's srun and under Open MPI's mpirun
the processes find each other. Elsewhere, --coordinator=HOST:PORT --process_count=N --process_id=I
says where they are.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from mdeq_jax.commands import cli
from mdeq_jax.runtime.hosts import is_main
from mdeq_jax.training.advice import evaluation_advice, training_advice
from mdeq_jax.training.checkpoints import LATEST
from mdeq_jax.training.loop import train
from mdeq_jax.training.metrics import NonFiniteError
from mdeq_jax.training.optim import batch_size_warning
from mdeq_jax.vision.config import Config, finalize


def main(config: Config, in_file: Config, workdir: Path, *, profile: bool) -> dict[str, Any]:
    """Train in a workdir, or go on training there.

    Args:
      config: what to train.
      in_file: the config file without the command line's overrides.
      workdir: folder for checkpoints, metrics and pictures.
      profile: whether to record a trace of a few steps.
    """
    warning = batch_size_warning(config, in_file)
    if warning and is_main():
        print(f"warning: {warning}", file=sys.stderr)
    try:
        return train(config, workdir, profile=profile)
    except NonFiniteError as error:
        folder = workdir / LATEST
        kept = f" The last good checkpoint is kept in {folder}." if any(folder.iterdir()) else ""
        cli.fail(
            f"{error}; training stopped.{kept} Lower config.optim.learning_rate or set "
            "config.optim.clip_norm, and start in another --workdir.",
            code=1,
        )


def run() -> None:
    """Run the command under the flags of the process."""
    config = cli.ConfigFlag(finalize)
    workdir = flags.DEFINE_string(
        "workdir", None, "Folder for checkpoints, metrics and pictures.", required=True
    )
    profile = flags.DEFINE_bool(
        "profile", False, "Record a trace of a few steps in WORKDIR/profile, for TensorBoard."
    )
    cli.run(
        __doc__,
        lambda: main(config.value, config.in_file, Path(workdir.value), profile=profile.value),
        on_hosts=True,
        advice=(lambda: training_advice(config.value), lambda: evaluation_advice(config.value)),
    )


if __name__ == "__main__":
    run()
