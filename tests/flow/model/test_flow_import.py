"""Import of DEQ-Flow's checkpoints: what is inferred, converted and refused."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from deq_flow import FIXTURES, NAMES, load_config
from torch_files import WRITERS, write_zip

from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.flow.model.create import create_model, init_variables, merge_weight_norm
from mdeq_jax.flow.model.torch_files import import_with_report, infer_config
from mdeq_jax.torch_files.reader import read_state_dict

PUBLISHED = json.loads((FIXTURES / "flow_keys.json").read_text())


@pytest.fixture
def state():
    return {name: a.read() for name, a in read_state_dict(FIXTURES / "flow.pth").items()}


def convert(path, config):
    return import_with_report(path, config).variables


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_the_report(name):
    config = infer_config(FIXTURES / f"{name}.pth")
    assert config == load_config(name)
    variables, report = import_with_report(FIXTURES / f"{name}.pth", config)
    like = jax.eval_shape(lambda: init_variables(create_model(config), jax.random.key(0)))
    of = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    assert of(variables) == of(like)
    params = jax.tree.leaves(variables["params"])
    count = json.loads((FIXTURES / f"{name}.json").read_text())["parameters"]
    assert sum(a.size for a in params) == count
    assert report == [
        f"took {count:,} parameters in {len(params)} arrays and 30 arrays of BatchNorm statistics, "
        "float32",
        "ignored 15: counters of BatchNorm, which nothing depends on",
    ]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_inferred(tmp_path, name):
    keys = {k: s for k, s in PUBLISHED[name]["state"].items() if "num_batches" not in k}
    arrays = {k: np.zeros(shape, np.uint8) for k, shape in keys.items()}
    found = infer_config(write_zip(tmp_path / "file", arrays))
    assert found == dataclasses.replace(
        ModelConfig.published(name.split("_")[0]),
        attention="gma" in name,
        weight_norm="no_wnorm" not in name,
    )


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_version_1_and_files_without_prefix(tmp_path, state, write):
    old = {
        re.sub(r"^mask\.", "update_block.mask.", name.removeprefix("module.")): array
        for name, array in state.items()
    }
    config = load_config("flow")
    found = convert(write(tmp_path / "file", old), config)
    expected = convert(FIXTURES / "flow.pth", config)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert infer_config(tmp_path / "file") == config


def test_a_narrower_flow_head_is_inferred(tmp_path, state):
    # As in version 1.0, whose larger models have min(256, 2·motion).
    head = "module.update_block.flow_head"
    for name in (f"{head}.conv1.weight_v", f"{head}.conv1.weight_g", f"{head}.conv1.bias"):
        state[name] = state[name][:20]
    state[f"{head}.conv2.weight_v"] = state[f"{head}.conv2.weight_v"][:, :20].copy()
    path = write_zip(tmp_path / "file", state)
    assert infer_config(path) == dataclasses.replace(load_config("flow"), head=20)
    with pytest.raises(ValueError, match=r"config\.model\.head is 32; .* it is 20"):
        convert(path, load_config("flow"))


def test_weight_norm_is_folded():
    config = load_config("flow")
    plain, report = import_with_report(
        FIXTURES / "flow.pth", dataclasses.replace(config, weight_norm=False)
    )
    merged = merge_weight_norm(convert(FIXTURES / "flow.pth", config))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)  # noqa: E731
    jax.tree.map(close, plain, merged)
    gate = "update_block.gru.convz1.weight"
    assert f"refolded {gate}_g into {gate}" in report


def test_copies_of_a_batch_norm_must_agree(tmp_path, state):
    name = "module.cnet.layer2.0.norm3.running_mean"
    state[name] = state[name] + np.float32(1e-3)
    path = write_zip(tmp_path / "file", state)
    with pytest.raises(ValueError, match=r"file: cnet\.layer2\.0\.norm3\.running_mean and cnet"):
        convert(path, load_config("flow"))
    with pytest.raises(ValueError, match="differ"):
        infer_config(path)


def test_one_copy_of_a_batch_norm_is_enough(tmp_path, state):
    once = {name: a for name, a in state.items() if ".downsample.1." not in name}
    config = load_config("flow")
    found = convert(write_zip(tmp_path / "file", once), config)
    jax.tree.map(np.testing.assert_array_equal, found, convert(FIXTURES / "flow.pth", config))


def test_arrays_that_do_not_fit_are_named(tmp_path, state):
    del state["module.mask.0.bias"]
    state["module.tail.weight"] = np.zeros(3, np.float32)
    state["module.fnet.conv2.bias"] = np.zeros(24, np.int64)
    with pytest.raises(ValueError, match="does not fit") as error:
        convert(write_zip(tmp_path / "file", state), load_config("flow"))
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "missing: mask.0.bias (24,)",
        "extra: tail.weight (3,)",
        "type: fnet.conv2.bias is int64; it must be floating point",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 8}, "config.model.hidden is 8; by the file's arrays it is 16"),
        ({"encoder": (8, 12, 16)}, "encoder is (8, 12, 16); by the file's arrays it is (10, 12"),
        ({"radius": 3}, "config.model.radius is 3; by the file's arrays it is 4"),
        ({"attention": True}, "config.model.attention is True; by the file's arrays it is False"),
    ],
)
def test_another_architecture_is_explained(changes, message):
    config = dataclasses.replace(load_config("flow"), **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        convert(FIXTURES / "flow.pth", config)


def test_dropped_and_missing_arrays():
    config = dataclasses.replace(load_config("flow"), mask=12)
    variables, report = import_with_report(
        FIXTURES / "flow.pth", config, drop=["module.mask.*"], allow_missing=["mask.*"]
    )
    assert variables["params"]["mask"]["conv1"]["bias"].shape == (12,)
    assert report[2:4] == ["dropped mask.0.bias", "dropped mask.0.weight"]
    assert report[-1] == "left at its initial value: mask.2.weight"


def test_what_holds_no_such_model(tmp_path, state):
    path = write_zip(tmp_path / "file", {"conv.weight": np.ones((2, 2, 3), np.float32)})
    for refuse in (infer_config, lambda path: convert(path, load_config("flow"))):
        with pytest.raises(ValueError, match=r"it holds no model of DEQ-Flow: .* is missing"):
            refuse(path)
    name = "module.update_block.encoder.convc1.weight_v"
    state[name] = state[name][:, :323].copy()
    with pytest.raises(ValueError, match="323 correlations are no square windows"):
        infer_config(write_zip(tmp_path / "file", state))
