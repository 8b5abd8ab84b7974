"""The compiled training step of a setting, on one device."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from benchmarks.problems import Setting
from mdeq_jax.training.mesh import AXIS, shard
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.state import TrainState, create_state, place_state
from mdeq_jax.training.steps import make_train_step

Step = Callable[[TrainState, Any], tuple[TrainState, Any]]


def training_step(bench: Setting, unrolled: int | None) -> tuple[Step, TrainState, Any]:
    """Return the step, the state before it, and the batch.

    Args:
      bench: the model and its images.
      unrolled: number of applications of the cell in place of the solve; None solves.
    """
    from mdeq_jax.vision.experiment import (
        create_experiment,
    )  # it imports the packages that read data

    config = bench.config
    mesh: Mesh = jax.make_mesh(
        (1,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:1]
    )
    experiment = create_experiment(config)
    optimizer = create_optimizer(config.optim, 1000, 100)
    state = place_state(create_state(experiment, optimizer), mesh)
    batch = shard({"image": bench.images, "label": bench.labels}, mesh)
    step = make_train_step(experiment, optimizer, mesh, unrolled=unrolled, steps_per_epoch=100)
    return step, state, batch


def repeatable(step: Step, state: TrainState, batch: Any) -> Callable[[], Any]:
    """Return the step as a function that continues from its last state: a step consumes it."""
    states = [state]

    def once() -> Any:
        states[0], metrics = step(states[0], batch)
        return metrics

    return once
