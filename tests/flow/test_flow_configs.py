"""The configs of optical flow: widths of the models, and a training step of each."""

import dataclasses

import jax
import numpy as np
import pytest
from flow_layouts import make_all
from running import take_steps

from mdeq_jax.flow.experiment import Config, create_experiment
from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.training.config import override
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.sections import from_mapping

NAMES = (
    *("flow_shapes", "flow_chairs_base", "flow_things_base"),
    *("flow_things_huge", "flow_sintel_huge", "flow_kitti_huge"),
)


def load(name):
    return from_mapping(Config(), load_config(name))


@pytest.mark.parametrize("name", NAMES[1:])
def test_widths_are_the_published_ones(name):
    model = load(name).model
    published = ModelConfig.published(name.split("_")[-1])
    assert dataclasses.replace(published, detach_flow=model.detach_flow) == model
    assert model.detach_flow == (name == "flow_chairs_base")


def test_parameters_of_the_narrow_model():
    experiment = create_experiment(load("flow_shapes"))
    params = jax.eval_shape(experiment.init, jax.random.key(0))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == 322_768


@pytest.mark.slow
def test_a_training_step_on_files_in_the_published_layout(tmp_path):
    make_all(tmp_path)
    config = load("flow_kitti_huge")
    few = {
        "data.root": str(tmp_path),
        "data.crop": (64, 64),
        "data.batch_size": 1,
        "data.threads": 1,
        "solver.forward.max_steps": 2 * config.correction.states,
    }
    experiment = create_experiment(override(config, few))
    assert experiment.evaluations()
    _, metrics = take_steps(experiment, 1, 1)
    assert np.isfinite(metrics["loss"])
    assert metrics["grad_norm"] > 0
