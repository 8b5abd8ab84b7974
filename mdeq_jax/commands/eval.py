"""Evaluate a checkpoint.

    python eval.py --config configs/digits.py --checkpoint runs/digits
    mdeq-eval --config digits --checkpoint runs/digits     # the same, once installed

The config names the data and the solver: --config.solver.forward.max_steps=6, for example, trades
accuracy for time. For segmentation it also sets test-time augmentation:
--config.inference.flip=True --config.inference.scales="(0.75, 1.0, 1.25)"
--config.inference.window="(512, 1024)". Its architecture must equal the checkpoint's. The last line
on stdout is one JSON object. On several hosts, start the command once on each.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from mdeq_jax import applications
from mdeq_jax.commands import cli
from mdeq_jax.runtime.hosts import is_main
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.mesh import check_batch_sizes, create_mesh, replicate


def main(config: RunConfig, checkpoint: str, path: str | None) -> dict[str, Any]:
    """Evaluate a checkpoint.

    Args:
      config: config with data and solver; its architecture must equal the checkpoint's.
      checkpoint: a workdir, its best/, or one step's folder.
      path: a .npz file for the outputs of every image; None writes none.
    """
    started = time.monotonic()
    folder = Path(path or "").parent
    # Checked before the evaluation, not after it.
    if path is not None and not path.endswith(".npz"):  # NumPy would append it
        raise ValueError(f"--output is {path!r}, which is no .npz file; name it NAME.npz.")
    if not folder.is_dir():
        raise ValueError(f"--output is {path}, but there is no folder {folder}; make it.")
    experiment = applications.create_experiment(config)
    trained = applications.load_trained(checkpoint, expected=config)
    mesh = create_mesh()
    check_batch_sizes(config, mesh)
    records: dict[str, list[np.ndarray]] = {}
    metrics = Evaluator(experiment, mesh)(
        replicate(trained.variables, mesh),
        unrolled=trained.config.train.unrolled_at(trained.step),
        on_records=None if path is None else lambda name: records.setdefault(name, []).append,
    )
    if path is not None and is_main():
        name = experiment.record_name
        arrays: dict[str, Any] = {
            name if len(records) == 1 else f"{evaluation}_{name}": np.concatenate(rows)
            for evaluation, rows in records.items()
        }
        np.savez(path, **arrays)
    return {**metrics, "steps": trained.step, "wall_s": round(time.monotonic() - started, 2)}


def run() -> None:
    """Run the command under the flags of the process."""
    config = cli.ConfigFlag(applications.finalize)
    checkpoint = flags.DEFINE_string("checkpoint", None, cli.CHECKPOINT, required=True)
    output = flags.DEFINE_string(
        "output",
        None,
        "A .npz file for the logits of every image, or for segmentation the labels of its pixels, "
        "in the order of the data set.",
    )
    cli.run(
        __doc__,
        lambda: main(config.value, checkpoint.value, output.value),
        on_hosts=True,
    )


if __name__ == "__main__":
    run()
