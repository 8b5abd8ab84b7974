"""Ways to run an experiment that tests of several applications share."""

import itertools

import jax
import pytest
from jax.sharding import AxisType

from mdeq_jax.training import loaders
from mdeq_jax.training.batches import BatchIterator
from mdeq_jax.training.experiment import make_put
from mdeq_jax.training.loop import train
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.state import create_state, place_state
from mdeq_jax.training.steps import make_train_step


def mesh_of(devices):
    """A mesh of the first devices."""
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def each_step(experiment, devices):
    """The state and the metrics after each step; the next step donates the state's buffers."""
    mesh = mesh_of(devices)
    optimizer = create_optimizer(experiment.config.optim, 10, 10)
    state = place_state(create_state(experiment, optimizer), mesh)
    step = make_train_step(experiment, optimizer, mesh, unrolled=None, steps_per_epoch=10)
    put = make_put(experiment, mesh)
    for batch in experiment.train_batches():
        state, metrics = step(state, put(batch))
        yield state, metrics


def take_steps(experiment, devices, count):
    """The state and the metrics after some steps."""
    return next(itertools.islice(each_step(experiment, devices), count - 1, None))


def interrupted_after(monkeypatch, experiment, workdir, last):
    """Train until the data end after some batches, which saves a checkpoint."""

    class Ending(BatchIterator):
        def __next__(self):
            if self.get_state()["next_index"] == last:
                raise ValueError("no more data")
            return super().__next__()

    with monkeypatch.context() as patch:
        patch.setattr(loaders, "BatchIterator", Ending)
        with pytest.raises(ValueError, match="no more data"):
            train(experiment, workdir)
