"""The transformer cell: symmetries, norms, positions, dtypes, and what does not fit."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import make

from mdeq_jax.reasoning.model.config import ModelConfig

SMALL = ModelConfig(kind="transformer", width=16, heads=2, expansion=1.5, halting=True)
MLP = dataclasses.replace(SMALL, mixing="mlp", positions="none")
mixings = pytest.mark.parametrize("config", [SMALL, MLP], ids=["attention", "mlp"])


def make_small(config=SMALL, size=(4, 4), dtype=None):
    return make(config, size, channels=5, classes=4, dtype=dtype)


def draw(seed=1):
    """A random state and a random injection."""
    return np.random.default_rng(seed).normal(size=(2, 3, 4, 4, 16)).astype(np.float32)


@mixings
def test_a_permuted_batch_gives_permuted_outputs(config):
    model, variables = make_small(config)
    z, x = draw()
    bound, order = model.bind(variables), np.array([2, 0, 1])
    outputs = jax.jit(lambda z, x: bound.head(bound.cell(z, x)))
    np.testing.assert_allclose(outputs(z[order], x[order]), outputs(z, x)[order], atol=1e-5)


@mixings
def test_only_the_injection_tells_attention_where_a_position_is(config):
    model, variables = make_small(config)
    order = np.random.default_rng(2).permutation(16)
    z, x = draw()
    shuffle = lambda a: a.reshape(3, 16, -1)[:, order].reshape(a.shape)  # noqa: E731
    cell = jax.jit(model.bind(variables).cell)
    after, before = cell(shuffle(z), shuffle(x)), shuffle(cell(z, x))
    assert np.allclose(after, before, atol=1e-5) == (config.mixing == "attention")


@mixings
def test_each_position_has_mean_square_1_after_the_cell(config):
    model, variables = make_small(config)
    z = jax.jit(model.bind(variables).cell)(*draw())
    np.testing.assert_allclose(jnp.square(z).mean(-1), 1, atol=1e-4)


@mixings
def test_states_and_logits_are_float32_whatever_the_linear_maps_compute_in(config):
    states = {}
    for dtype in (None, "bfloat16"):
        model, variables = make_small(config, dtype=dtype)
        assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        bound = model.bind(variables)
        states[dtype] = jax.jit(bound.cell)(*draw())
        assert (states[dtype].shape, states[dtype].dtype) == ((3, 4, 4, 16), jnp.float32)
        logits = jax.eval_shape(bound.head, states[dtype])
        assert (logits.shape, logits.dtype) == ((3, 4, 4, 4), jnp.float32)
    error = jnp.linalg.norm(states["bfloat16"] - states[None]) / jnp.linalg.norm(states[None])
    assert 1e-4 < error < 0.03


@pytest.mark.parametrize(
    ("positions", "size", "tables"),
    [
        ("axes", (4, 4), {"row": 4, "column": 4, "box": 4}),
        ("axes", (9, 9), {"row": 9, "column": 9, "box": 9}),
        ("axes", (4, 6), {"row": 4, "column": 6}),
        ("axes", (6, 6), {"row": 6, "column": 6}),
        ("learned", (4, 4), {"position": 16}),
    ],
)
def test_learned_vectors(positions, size, tables):
    model, variables = make_small(dataclasses.replace(SMALL, positions=positions), size)
    lengths = {name: table.shape for name, table in variables["params"]["positions"].items()}
    assert lengths == {name: (length, 16) for name, length in tables.items()}
    blank = np.zeros((1, *size, 5), np.float32)
    x = np.asarray(model.bind(variables).inject(blank)).reshape(-1, 16)
    assert len(np.unique(x, axis=0)) == len(x)  # every position is told from the others


def test_boxes_are_those_of_sudoku():
    model, variables = make_small(size=(9, 9))
    tables = dict.fromkeys(("row", "column"), np.zeros((9, 16)))
    tables["box"] = np.arange(9.0)[:, None] * np.ones(16)
    variables["params"]["positions"] = tables
    x = model.bind(variables).inject(np.zeros((1, 9, 9, 5)))[0, :, :, 0]
    expected = np.kron(np.arange(9.0).reshape(3, 3), np.ones((3, 3)))
    np.testing.assert_allclose(x, expected * 4 / np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize("start", ["zeros", "projection"])
def test_start(start):
    model, variables = make_small(dataclasses.replace(SMALL, start=start))
    _, x = draw()
    expected = x if start == "projection" else 0 * x
    np.testing.assert_array_equal(model.bind(variables).start(x[..., :5], x), expected)


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_a_new_model_does_not_halt(kind):
    model, _ = make_small(dataclasses.replace(SMALL, kind=kind))
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 4, 4, 5), np.float32))
    np.testing.assert_array_equal(model.bind(variables).halt(draw()[0]), [-5] * 3)


def test_halting_is_a_linear_map_of_the_mean_state():
    model, variables = make_small()
    linear = {"kernel": np.arange(16.0)[:, None], "bias": np.ones(1)}
    variables["params"]["halting"] = {"linear": linear}
    z, _ = draw()
    expected = z.mean((1, 2)) @ np.arange(16.0) + 1
    np.testing.assert_allclose(model.bind(variables).halt(z), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 9, 9, 5), (1, 4, 4, 10), (1, 2, 8, 5)])
def test_inputs_that_do_not_fit(shape):
    model, variables = make_small()
    with pytest.raises(ValueError, match=re.escape(f"shape {shape}; this transformer takes (B, 4")):
        model.bind(variables).inject(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "mlp"}, "kind is 'mlp'; it must be 'recurrent' or 'transformer'"),
        ({"width": 30}, "groups is 4; it must be a divisor of width 30"),
        ({"width": 8}, "groups is 4; it must be at most 2, for 3 channels per group"),
        ({"width": 0}, "width is 0; it must be a whole number of at least 1"),
        ({"recall": False}, "start is 'zeros'; it must be 'projection' where recall is False"),
        ({"recall": 1}, "recall is 1; it must be True or False"),
        ({"kind": "transformer", "heads": 3}, "heads is 3; it must be a divisor of width 32"),
        ({"kind": "transformer", "positions": "none"}, "it must be 'learned' or 'axes' where"),
        ({"expansion": 0}, "expansion is 0; it must be a number above 0"),
    ],
)
def test_an_architecture_that_does_not_exist(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ModelConfig(**fields)


def test_checks_concern_the_kind_only():
    ModelConfig(width=30, norm="none")
    ModelConfig(kind="transformer", width=30, heads=3)
    ModelConfig(kind="transformer", width=30, mixing="mlp")
