"""Import of deep-thinking's checkpoints: what is inferred, what is refused."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from deep_thinking import FIXTURES, NAMES, load_model
from torch_files import WRITERS, write_zip

from mdeq_jax.applications import load_trained_as
from mdeq_jax.commands import import_torch as command
from mdeq_jax.reasoning.config import Config
from mdeq_jax.reasoning.model.config import ModelConfig
from mdeq_jax.reasoning.model.create import create_model
from mdeq_jax.reasoning.model.torch_files import import_torch, import_with_report, infer_model
from mdeq_jax.torch_files.reader import read_state_dict


@pytest.fixture
def state():
    return {n: a.read() for n, a in read_state_dict(FIXTURES / "dt1d.pth").items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_inferred(name):
    norm = "group" if "gn" in name else "none"
    assert infer_model(FIXTURES / f"{name}.pth", norm) == load_model(name)


@pytest.mark.parametrize("name", ["dt1d", "dt2d"])
def test_names_shapes_and_the_report(name):
    model = load_model(name)
    variables, report = import_with_report(FIXTURES / f"{name}.pth", model)
    inputs = np.zeros((1, model.dimensions, 3, model.channels), np.float32)
    expected = jax.eval_shape(model.init, jax.random.key(0), inputs)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), variables) == jax.tree.map(
        lambda a: (a.shape, a.dtype), expected
    )
    count = sum(a.size for a in jax.tree.leaves(variables))
    assert report == [f"took {count:,} parameters in 9 arrays, float32"]


def test_an_imported_checkpoint_loads(tmp_path):
    """The network has no collections beside its parameters."""
    config, path = Config(model=load_model("dt1d").config), FIXTURES / "dt1d.pth"
    output = str(tmp_path / "imported")
    command.main(config, str(path), output, allow_missing=(), drop=())
    trained = load_trained_as("reasoning", output)
    expected = import_torch(path, load_model("dt1d"))
    jax.tree.map(np.testing.assert_array_equal, trained.variables, dict(expected))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_any_format_and_prefix(tmp_path, state, write):
    plain = {name.removeprefix("module."): a for name, a in state.items()}
    found = import_torch(write(tmp_path / "file", plain), load_model("dt1d"))
    expected = import_torch(FIXTURES / "dt1d.pth", load_model("dt1d"))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_arrays_that_do_not_fit_are_named(tmp_path, state):
    del state["module.head.0.weight"]
    state["module.bias"] = np.zeros(3, np.float32)
    state["module.head.4.weight"] = np.zeros((2, 8, 3), np.int64)
    with pytest.raises(ValueError, match="does not fit") as error:
        import_torch(write_zip(tmp_path / "file", state), load_model("dt1d"))
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "missing: head.0.weight (16, 16, 3)",
        "extra: bias (3,)",
        "type: head.4.weight is int64; it must be floating point",
    ]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dt1d", {"width": 8}, "config.model.width is 8; by the file's arrays it is 16"),
        (
            "dt1d",
            {"recall": False},
            "config.model.recall is False; by the file's arrays it is True",
        ),
        ("dt1d", {"blocks": 3}, "config.model.blocks is 3; by the file's arrays it is 2"),
        ("dt1d", {"start": "zeros"}, "config.model.start is 'zeros'; by the file's arrays it is"),
        ("dt2d", {}, "dimensions is 2; by the file's arrays it is 1"),
    ],
)
def test_another_architecture_is_explained(name, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        import_torch(FIXTURES / "dt1d.pth", load_model(name, **changes))


def test_missing_arrays_and_dropped_arrays():
    model = load_model("dt1d", start="zeros", halting=True)
    with pytest.raises(ValueError, match=r"missing: halting\.linear\.bias"):
        import_torch(FIXTURES / "dt1d.pth", model, drop=["projection.*"])
    variables, report = import_with_report(
        FIXTURES / "dt1d.pth", model, drop=["projection.*"], allow_missing=["halting.*"]
    )
    np.testing.assert_array_equal(variables["params"]["halting"]["linear"]["bias"], [-5])
    assert report == [
        "took 5,088 parameters in 8 arrays, float32",
        "dropped projection.0.weight",
        "left at its initial value: halting.linear.bias",
        "left at its initial value: halting.linear.weight",
    ]


def test_what_holds_no_such_network(tmp_path):
    path = write_zip(tmp_path / "file", {"conv.weight": np.ones((2, 2, 3), np.float32)})
    with pytest.raises(ValueError, match="it holds no network of deep-thinking") as error:
        infer_model(path)
    assert str(error.value).count(str(path)) == 1
    with pytest.raises(ValueError, match="it holds no network of deep-thinking"):
        import_torch(path, load_model("dt1d"))


def test_a_transformer_is_refused():
    config = dataclasses.replace(ModelConfig(), kind="transformer")
    model = create_model(config, channels=5, classes=4, size=(4, 4))
    with pytest.raises(ValueError, match=r"config\.model\.kind is 'transformer'"):
        import_torch(FIXTURES / "dt1d.pth", model)
