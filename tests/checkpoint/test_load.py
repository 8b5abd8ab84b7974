"""Models from checkpoints, and new models from others' weights."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.checkpoint.load import start_from
from mdeq_jax.checkpoint.torch_import import import_torch
from mdeq_jax.models import ModelConfig, create_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
CONFIG = ModelConfig(**json.loads((FIXTURES / "cls2_noaffine.json").read_text()))


def initial(config: ModelConfig):
    """Variables of the right shapes, all −1."""
    images = jnp.zeros((1, 8, 8, 3))
    shapes = jax.eval_shape(create_model(config).init, jax.random.key(0), images)
    return jax.tree.map(lambda x: np.full(x.shape, -1, x.dtype), shapes)


def test_start_from_a_pytorch_file():
    path = FIXTURES / "cls2_noaffine.pkl"
    started, left = start_from(initial(CONFIG), path, CONFIG)
    assert left == []
    imported = import_torch(path, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, started, imported)


def test_what_does_not_fit_is_left_and_named():
    config = dataclasses.replace(CONFIG, num_classes=7)
    started, left = start_from(initial(config), FIXTURES / "cls2_noaffine.pkl", config)
    assert left == [
        "params/head/classifier/bias ((10,) there, (7,) here)",
        "params/head/classifier/kernel ((24, 10) there, (24, 7) here)",
    ]
    assert (started["params"]["head"]["classifier"]["kernel"] == -1).all()
    assert (started["params"]["stem"]["downsample_0"]["conv"]["kernel"] != -1).all()


def test_a_segmentation_model_starts_from_a_classifiers_cell():
    config = dataclasses.replace(CONFIG, task="segmentation", num_classes=19)
    started, left = start_from(initial(config), FIXTURES / "cls2_noaffine.pkl", config)
    assert all(name.split("/")[1] == "head" and "not there" in name for name in left)
    assert all((x != -1).any() for x in jax.tree.leaves(started["params"]["cell"]))


def test_groups_of_the_new_model_need_not_divide_the_files_widths():
    config = dataclasses.replace(CONFIG, branch_channels=(32, 32), num_groups=16)
    started, left = start_from(initial(config), FIXTURES / "cls2_noaffine.pkl", config)
    assert any("(8,) there, (32,) here" in name for name in left)
    assert (started["params"]["head"]["classifier"]["kernel"] != -1).all()


def test_nothing_fits():
    message = r"cls2_noaffine\.pkl fits this model; .* of the same widths, \(8, 8\), or"
    with pytest.raises(ValueError, match=message):
        start_from({"params": {"w": jnp.zeros(3)}}, FIXTURES / "cls2_noaffine.pkl", CONFIG)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        start_from({"params": {"w": jnp.zeros(3)}}, "nowhere", CONFIG)
