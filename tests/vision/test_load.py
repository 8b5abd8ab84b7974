"""Models from checkpoints, and new models from others' weights."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from mdeq_states import fold, random_state
from torch_files import write_zip

import mdeq_jax as mx
from mdeq_jax.training.checkpoints import write_checkpoint
from mdeq_jax.training.weights import read_trained
from mdeq_jax.vision.config import Config, finalize
from mdeq_jax.vision.load import start_from
from mdeq_jax.vision.model import ModelConfig, create_model
from mdeq_jax.vision.torch_files.convert import import_torch

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
    started, left = start_from(
        initial(config), FIXTURES / "cls2_noaffine.pkl", config, allow_missing=["params/cell/*"]
    )
    assert any("(8,) there, (32,) here" in name for name in left)
    assert (started["params"]["head"]["classifier"]["kernel"] != -1).all()


def folder(path, config, variables):
    """A checkpoint of ours."""
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    state = {"params": variables["params"], "collections": collections}
    write_checkpoint(epath.Path(path), state, dataclasses.asdict(Config(model=config)), 3)
    return path


def folder_of_0_1(path, config, variables):
    """A checkpoint as version 0.1 wrote it, which knew no other collection and no application."""
    nested = dataclasses.asdict(Config(model=config))
    del nested["app"]
    for solver in nested["solver"].values():
        solver |= {"when_full": "restart", "window": 6, "ridge": 1e-4, "ridge_mode": "relative"}
        solver |= {"mixing": 1.0, "damping": 1.0}
    nested["adjoint"] |= {"steps": 5, "damping": 0.5, "refine": 0, "fallback": 1.8}
    names = ("name", "learning_rate", "schedule", "learning_rate_floor", "step_epochs")
    names += ("step_factor", "weight_decay", "momentum", "nesterov", "clip_norm")
    nested["optim"] = {name: nested["optim"][name] for name in names}
    state = {
        "step": jnp.asarray(3),
        "params": variables["params"],
        "batch_stats": variables["batch_stats"],
        "opt_state": optax.adam(1e-3).init(variables["params"]),
        "key": jnp.zeros(2, jnp.uint32),
    }
    write_checkpoint(epath.Path(path), state, nested, 3)
    return path


@pytest.mark.parametrize("write", [folder, folder_of_0_1])
def test_a_checkpoint_is_loaded_and_started_from(tmp_path, write):
    variables = import_torch(FIXTURES / "cls2_noaffine.pkl", CONFIG)
    path = write(tmp_path / "run", CONFIG, variables)
    model, loaded, config = mx.load(path)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert (model.config, config.model) == (CONFIG, CONFIG)
    for found, expected in zip(
        (config.solver.forward, config.solver.backward),
        (Config().solver.forward, Config().solver.backward),
        strict=True,
    ):
        assert found.build() == expected.build()
    started, left = start_from(initial(CONFIG), path, CONFIG)
    assert left == []
    jax.tree.map(np.testing.assert_array_equal, started, variables)


def test_a_model_without_other_collections_is_loaded(tmp_path):
    path, params = tmp_path / "run", {"w": np.arange(3.0)}
    state = {"params": params, "collections": {}, "carry": (), "ema": None}
    write_checkpoint(epath.Path(path), state, dataclasses.asdict(Config()), 3)
    assert read_trained(path, finalize).variables.keys() == {"params"}


@pytest.mark.parametrize(("stored", "wanted"), [(True, False), (False, True)])
def test_weight_norm_in_the_other_layout(tmp_path, stored, wanted):
    config = dataclasses.replace(CONFIG, weight_norm=wanted)
    state = random_state(CONFIG) if stored else fold(random_state(CONFIG))
    path = write_zip(tmp_path / "file", state)
    expected = import_torch(path, config)

    started, left = start_from(initial(config), path, config)
    assert left == []
    jax.tree.map(np.testing.assert_array_equal, started, expected)

    other = dataclasses.replace(CONFIG, weight_norm=stored)
    own = folder(tmp_path / "own", other, import_torch(path, other))
    started, left = start_from(initial(config), own, config)
    assert left == []
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), started, expected)


def test_a_file_without_its_head(tmp_path):
    state = random_state(CONFIG)
    parts = ("downsample.", "fullstage.")
    body = {name: a for name, a in state.items() if name.startswith(parts)}
    started, left = start_from(initial(CONFIG), write_zip(tmp_path / "file", body), CONFIG)
    assert {name.split("/")[1] for name in left} == {"head"}
    assert all((x != -1).any() for x in jax.tree.leaves(started["params"]["cell"]))


def test_an_own_model_of_another_task(tmp_path):
    other = dataclasses.replace(CONFIG, extra_heads=(), weight_norm=not CONFIG.weight_norm)
    own = folder(tmp_path / "own", other, initial(other))
    extra = ("classification", "scales")
    config = dataclasses.replace(
        CONFIG, task="segmentation", num_classes=19, extra_heads=extra, injection="all"
    )
    _, left = start_from(initial(config), own, config)
    assert left
    assert not any(name.startswith("params/cell") for name in left)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"block_gn_affine": True}, r"/branches_0_blocks_0/gn1/scale \(not there\)"),
        ({"blocks_per_branch": (2, 1)}, r"/branches_0_blocks_1/conv1/v \(not there\)"),
        (
            {"expansion": 3},
            r"/branches_0_blocks_0/conv1/v \(\(3, 3, 8, 40\) there, \(3, 3, 8, 24\) ",
        ),
    ],
)
def test_a_cell_that_would_keep_initial_values(tmp_path, own, fields, reason):
    small = dataclasses.replace(CONFIG, block_gn_affine=False, blocks_per_branch=(1, 1))
    config = dataclasses.replace(small, **fields)
    if own:
        source = folder(tmp_path / "own", small, initial(small))
    else:
        source = write_zip(tmp_path / "file", random_state(small))
    with pytest.raises(ValueError, match="does not fill the cell") as error:
        start_from(initial(config), source, config)
    assert re.search(f"params/cell{reason}", str(error.value))
    assert str(source) in str(error.value)
    assert "--config.init_from_allow_missing=\"('params/cell/*',)\"" in str(error.value)
    assert "head" not in str(error.value)


@pytest.mark.parametrize(
    "allowed",
    [
        ["params/cell/branches_*/gn?/*"],
        ["fullstage.branches.*.gn?.*"],
        ["module.full_stage.branches.0.*", "params/cell/branches_1_*"],
    ],
)
def test_initial_values_of_the_cell_are_allowed_by_name(tmp_path, allowed):
    small = dataclasses.replace(CONFIG, block_gn_affine=False)
    config = dataclasses.replace(CONFIG, block_gn_affine=True)
    path = write_zip(tmp_path / "file", random_state(small))
    started, left = start_from(initial(config), path, config, allow_missing=allowed)
    assert all("/gn" in name for name in left)
    assert (started["params"]["cell"]["branches_0_blocks_0"]["gn1"]["scale"] == -1).all()
    with pytest.raises(ValueError, match=r"branches_1_blocks_0/gn1/bias") as error:
        start_from(initial(config), path, config, allow_missing=["params/cell/branches_0_*"])
    assert "branches_0_blocks_0" not in str(error.value)


def test_one_string_is_no_list_of_names(tmp_path):
    path = FIXTURES / "cls2_noaffine.pkl"
    message = r"allow_missing is 'params/\*'; it must be a list of names: allow_missing=\['params/"
    with pytest.raises(ValueError, match=message):
        start_from(initial(CONFIG), path, CONFIG, allow_missing="params/*")


def test_nothing_fits():
    message = r"cls2_noaffine\.pkl fits this model; .* of the same widths, \(8, 8\), or"
    with pytest.raises(ValueError, match=message):
        start_from({"params": {"w": jnp.zeros(3)}}, FIXTURES / "cls2_noaffine.pkl", CONFIG)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        start_from({"params": {"w": jnp.zeros(3)}}, "nowhere", CONFIG)
