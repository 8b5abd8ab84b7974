"""The config of inverse problems: the size of its model, and a training step of the control."""

import jax
import numpy as np
import pytest
from running import take_steps

from mdeq_jax.inverse.generation.experiment import Config, create_experiment
from mdeq_jax.training.config import override
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.sections import from_mapping


def load(**changes):
    return override(from_mapping(Config(), load_config("inverse_digits")), changes)


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_parameter_count():
    key = jax.random.key(0)
    ours, control = (
        jax.eval_shape(create_experiment(load(**changes)).init, key)["params"]
        for changes in ({}, {"model.latents": "encoded"})
    )
    assert size(ours) == 27_249
    assert size(control["generator"]) == size(ours["generator"])


@pytest.mark.slow
def test_a_training_step():
    changes = {"data.batch_size": 2, "solver.forward.max_steps": 3}
    _, metrics = take_steps(create_experiment(load(**changes)), 1, 1)
    assert np.isfinite(metrics["loss"])
    assert metrics["grad_norm"] > 0
