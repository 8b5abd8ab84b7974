"""A short training whose losses and data are printed: what one of several processes runs.

python worker.py DATA_DIR STEPS DTYPE [COORDINATOR PROCESS_COUNT PROCESS_ID]
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from test_steps import with_sections

from mdeq_jax.runtime.hosts import connect
from mdeq_jax.training.mesh import create_mesh, shard
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.state import create_state, place_state
from mdeq_jax.training.steps import make_train_step
from mdeq_jax.vision.experiment import create_experiment


def make_config(data_dir: str):
    tight = {"tol": 1e-10, "max_steps": 150}
    return with_sections(
        model={"dropout": 0.2},
        solver={"forward": tight, "backward": tight},
        data={"dir": data_dir, "batch_size": 16},
        optim={"learning_rate": 0.02},
    )


def train(config, steps: int, dtype) -> tuple[list[float], list[list[int]]]:
    """The loss of each step, and the labels of this process's share of each batch."""
    mesh, experiment = create_mesh(), create_experiment(config)
    optimizer = create_optimizer(config.optim, steps, steps_per_epoch=steps)
    cast = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    state = jax.tree.map(cast, create_state(experiment, optimizer))
    # Of a cell that contracts the equilibrium does not depend on how sums are rounded.
    norm = state.params["cell"]["branches_0_blocks_0"]["gn3"]
    norm["scale"] = 0.1 * norm["scale"]
    state = place_state(state, mesh)
    step = make_train_step(experiment, optimizer, mesh, unrolled=None, steps_per_epoch=steps)
    batches, losses, labels = experiment.train_batches(), [], []
    for _ in range(steps):
        batch = next(batches)
        batch["image"] = experiment.dataset.normalise(batch["image"]).astype(dtype)
        labels.append(batch["label"].tolist())
        state, metrics = step(state, shard(batch, mesh))
        losses.append(float(metrics["loss"]))
    return losses, labels


def main(data_dir: str, steps: str, dtype: str, *address: str) -> None:
    if address:
        coordinator, count, number = address
        connect(coordinator, int(count), int(number))
    losses, labels = train(make_config(data_dir), int(steps), np.dtype(dtype))
    print(json.dumps({"losses": losses, "labels": labels, "devices": jax.device_count()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
