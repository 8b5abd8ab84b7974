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

import jax
from absl import flags

from mdeq_jax import applications
from mdeq_jax.commands import cli
from mdeq_jax.runtime.hosts import is_main
from mdeq_jax.training.checkpoints import LATEST
from mdeq_jax.training.evaluation import solver_traces
from mdeq_jax.training.experiment import Experiment
from mdeq_jax.training.loop import train
from mdeq_jax.training.metrics import NonFiniteError
from mdeq_jax.training.optim import batch_size_warning
from mdeq_jax.training.state import TrainState
from mdeq_jax.vision.config import Config
from mdeq_jax.viz.solver_trace import plot_solver_traces

# Most samples whose solves are drawn.
_DRAWN = 8

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and pictures.", required=True
)
_PROFILE = flags.DEFINE_bool(
    "profile", False, "Record a trace of a few steps in WORKDIR/profile, for TensorBoard."
)


def main(config: Config) -> dict[str, Any]:
    """Train in the workdir, or go on training there."""
    recipe = cli.recipe()
    warning = batch_size_warning(
        config.data.batch_size,
        config.optim.learning_rate,
        recipe.data.batch_size,
        recipe.optim.learning_rate,
    )
    if warning and is_main():
        print(f"warning: {warning}", file=sys.stderr)
    experiment, workdir = (
        applications.create_experiment(config),
        Path(_WORKDIR.value),
    )
    try:
        trained = train(experiment, workdir, profile=_PROFILE.value)
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
        # One device solves them.
        variables = jax.device_get(state.eval_variables)
        share = experiment.config.data.eval_batch_size // jax.device_count()
        batch = next(iter(evaluation.batches()))
        batch = {name: rows[: min(_DRAWN, share)] for name, rows in batch.items()}
        traces = solver_traces(experiment, variables, experiment.prepare(batch))
        plot_solver_traces(*jax.device_get(traces), path)
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        # What was trained is worth more than its picture.
        reason = str(error).partition("\n")[0]
        print(f"warning: {path.name} is left out: {reason}", file=sys.stderr)


def run() -> None:
    """Run the command under the flags of the process."""
    cli.run(main, on_hosts=True)
