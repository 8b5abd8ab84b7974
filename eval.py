"""Evaluate a checkpoint.

    python eval.py --config configs/digits.py --checkpoint runs/digits

The config names data and solver (--config.solver.forward.max_steps=6, for one, trades accuracy for
time); its architecture must be the checkpoint's. The last line on stdout is one JSON object.
"""

import time
from typing import Any

import numpy as np
from absl import flags

from mdeq_jax import cli
from mdeq_jax.checkpoint.load import load_trained
from mdeq_jax.config import Config
from mdeq_jax.models import create_model
from mdeq_jax.training.evaluation import evaluate
from mdeq_jax.training.steps import check_batch_sizes, create_mesh, make_eval_step, replicate

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "A workdir (its newest checkpoint), its best/, or one step's folder.",
    required=True,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "A .npz file for the logits, one row per image in the order of the data set."
)


def main(config: Config) -> dict[str, Any]:
    """Evaluate the checkpoint under the config's data and solver."""
    started = time.monotonic()
    trained = load_trained(_CHECKPOINT.value, expected=config.model)
    mesh = create_mesh()
    check_batch_sizes(config.data, mesh)
    unrolled = trained.config.train.unrolled_at(trained.step)
    eval_step = make_eval_step(create_model(config.model), config, mesh, unrolled=unrolled)
    logits = []
    variables = replicate(trained.variables, mesh)
    metrics = evaluate(eval_step, variables, config.data, mesh, on_logits=logits.append)
    if _OUTPUT.value is not None:
        np.savez(_OUTPUT.value, logits=np.concatenate(logits))
    return {**metrics, "steps": trained.step, "wall_s": round(time.monotonic() - started, 2)}


if __name__ == "__main__":
    cli.run(main)
