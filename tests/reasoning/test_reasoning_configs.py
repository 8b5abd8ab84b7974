"""The configs of reasoning: sizes of the models, and a training step of each."""

import jax
import numpy as np
import pytest
from running import take_steps

from mdeq_jax.reasoning.experiment import Config, create_experiment
from mdeq_jax.training.config import override
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.sections import from_mapping

COUNTS = {
    "prefix_sums": 20_160,
    "mazes": 58_608,
    "mazes_large": 780_048,
    "sudoku4": 107_905,
    "sudoku9": 4_360_001,
}


def load(name):
    return from_mapping(Config(), load_config(name))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name):
    experiment = create_experiment(load(name))
    params = jax.eval_shape(experiment.init, jax.random.key(0))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == COUNTS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prefix_sums", "mazes", "sudoku4"])
def test_a_training_step(name):
    few = {"data.batch_size": 2, "data.train_problems": 4, "solver.forward.max_steps": 3}
    few |= {} if load(name).train.fewest_solver_steps is None else {"train.fewest_solver_steps": 2}
    experiment = create_experiment(override(load(name), few))
    _, metrics = take_steps(experiment, 1, 1)
    assert np.isfinite(metrics["loss"])
    assert metrics["grad_norm"] > 0
