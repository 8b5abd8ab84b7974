"""Train a model.

    python train.py --config configs/digits.py --workdir runs/digits --config.seed=1
    mdeq-train --config digits --workdir runs/digits     # the same, once installed

The same command continues from the last checkpoint. The last line on stdout is one JSON object with
the final metrics.

On several hosts, start the command once on each. On TPU pods, under Slurm's srun and under Open
MPI's mpirun the processes find each other. Elsewhere, give --coordinator=HOST:PORT
--process_count=N --process_id=I.
"""

import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from mdeq_jax import applications
from mdeq_jax.commands import cli
from mdeq_jax.runtime.hosts import is_main
from mdeq_jax.training.checkpoints import LATEST
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.evaluation import solver_traces
from mdeq_jax.training.experiment import Experiment
from mdeq_jax.training.loop import train
from mdeq_jax.training.metrics import NonFiniteError
from mdeq_jax.training.optim import batch_size_warning
from mdeq_jax.training.state import TrainState
from mdeq_jax.viz.solver_trace import plot_solver_traces

# The largest number of samples whose solves are drawn.
_DRAWN = 8


def main(config: RunConfig, in_file: RunConfig, workdir: Path, *, profile: bool) -> dict[str, Any]:
    """Train in a workdir, or continue training there.

    Args:
      config: the config of the run.
      in_file: the config file without the command line's overrides.
      workdir: folder for checkpoints, metrics and pictures.
      profile: whether to record a trace of a few steps.
    """
    warning = batch_size_warning(
        config.data.batch_size,
        config.optim.learning_rate,
        in_file.data.batch_size,
        in_file.optim.learning_rate,
    )
    if warning and is_main():
        print(f"warning: {warning}", file=sys.stderr)
    experiment = applications.create_experiment(config)
    try:
        trained = train(experiment, workdir, profile=profile)
    except NonFiniteError as error:
        folder = workdir / LATEST
        kept = f" The last good checkpoint is kept in {folder}." if any(folder.iterdir()) else ""
        cli.fail(
            f"{error}; training stopped.{kept} Lower config.optim.learning_rate or set "
            "config.optim.clip_norm, and start in another --workdir.",
            code=1,
        )
    if is_main() and not trained.metrics["interrupted"]:
        _draw_solver_traces(experiment, trained.state, workdir / "solver_trace.png")
    return trained.metrics


def _draw_solver_traces(experiment: Experiment, state: TrainState, path: Path) -> None:
    """Draw the residuals of both solves on a few samples of an evaluation."""
    evaluation = next(iter(experiment.evaluations().values()))
    try:
        # One device solves all of them.
        variables = jax.device_get(state.eval_variables)
        share = experiment.config.data.eval_batch_size // jax.device_count()
        batch = next(iter(evaluation.batches()))
        batch = {name: rows[: min(_DRAWN, share)] for name, rows in batch.items()}
        traces = solver_traces(experiment, variables, jax.jit(experiment.prepare)(batch))
        forward, backward = jax.device_get(traces)
        plot_solver_traces(forward, backward, path)
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        # A failed picture must not fail the training.
        reason = str(error).partition("\n")[0]
        print(f"warning: {path.name} is left out: {reason}", file=sys.stderr)


def run() -> None:
    """Run the command under the flags of the process."""
    config = cli.ConfigFlag(applications.finalize)
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
    )


if __name__ == "__main__":
    run()
