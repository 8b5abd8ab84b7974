"""The recurrent networks: sizes, equivariance, norms, dtypes and parameters."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import iterate, make, shapes

from mdeq_jax.layers.modules import GroupNorm
from mdeq_jax.reasoning.model.config import ModelConfig
from mdeq_jax.reasoning.model.recurrent import position_norm

SMALL = ModelConfig(width=12, groups=2)
INPUTS = np.random.default_rng(0).normal(size=(3, 1, 12, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("width", "size", "channels", "count"),
    [(400, (1, 16), 1, 3_123_600), (128, (24, 24), 3, 783_504)],
)
def test_parameters_of_the_published_networks(width, size, channels, count):
    config = ModelConfig(width=width, norm="none", start="projection")
    _, variables = shapes(config, size, channels)
    assert sum(x.size for x in jax.tree.leaves(variables)) == count


@pytest.mark.parametrize(
    ("size", "longer", "axis"),
    [((1, 12), (1, 32), 2), ((6, 6), (32, 3), 1), ((6, 6), (3, 32), 2)],
)
def test_a_shifted_input_of_another_size_gives_the_shifted_state(x64, size, longer, axis):
    model, variables = make(SMALL, size, 1)
    # An input of zeros leaves the state at zero. Two applications of five convolutions reach ten
    # positions to either side, so neither state touches a border.
    impulse = np.zeros((1, *longer, 1))
    impulse[(slice(None),) * axis + (11,)] = 1
    both = np.concatenate([impulse, np.roll(impulse, 9, axis)])
    z, shifted = jax.jit(lambda x: iterate(model, variables, x, steps=2))(both)
    np.testing.assert_allclose(shifted, np.roll(z, 9, axis - 1), rtol=1e-9, atol=1e-9)
    reached = np.flatnonzero(np.abs(z).max(axis=tuple({0, 1, 2} - {axis - 1})))
    assert (reached.min(), reached.max()) == (1, 21)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("groups", [1, 4])
def test_position_norm_is_a_group_norm_of_each_position(x64, monkeypatch, groups, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = np.random.default_rng(0).normal(1, 2, size=(2, 3, 4, 8))
    alone = GroupNorm(groups, affine=False).apply({}, x.reshape(-1, 1, 1, 8))
    np.testing.assert_allclose(position_norm(x, groups), alone.reshape(x.shape), rtol=1e-10)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_states_and_logits_are_float32_whatever_the_convolutions_compute_in(dtype):
    model, variables = make(SMALL, (1, 12), 1, dtype=dtype)
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    program, states = jax.make_jaxpr(
        lambda x: iterate(model, variables, x, steps=2), return_shape=True
    )(INPUTS)
    assert (states.shape, states.dtype) == ((3, 1, 12, 12), jnp.float32)
    assert ("bf16" in str(program)) == (dtype == "bfloat16")
    logits = jax.eval_shape(model.bind(variables).head, states)
    assert (logits.shape, logits.dtype) == ((3, 1, 12, 2), jnp.float32)


def test_bfloat16_is_close_to_float32():
    model, variables = make(SMALL, (1, 12), 1)
    apply = lambda model: jax.jit(lambda x: iterate(model, variables, x, steps=1))(INPUTS)  # noqa: E731
    exact, rounded = apply(model), apply(model.copy(dtype="bfloat16"))
    assert 0 < jnp.linalg.norm(rounded - exact) < 0.03 * jnp.linalg.norm(exact)


def test_without_recall_the_cell_does_not_see_the_inputs():
    config = dataclasses.replace(SMALL, recall=False, start="projection")
    model, variables = make(config, (1, 12), 1)
    bound = model.bind(variables)
    x = bound.inject(INPUTS)
    z = bound.start(INPUTS, x)
    np.testing.assert_array_equal(bound.cell(z, x), bound.cell(z, 1 + x))
    assert jnp.abs(z).max() > 0


def test_zeros_start_without_a_projection():
    model, variables = make(SMALL, (1, 12), 1)
    assert "projection" not in variables["params"]
    bound = model.bind(variables)
    z = bound.start(INPUTS, bound.inject(INPUTS))
    np.testing.assert_array_equal(z, np.zeros((3, 1, 12, 12)))


@pytest.mark.parametrize(("size", "shape"), [((1, 12), (1, 2, 12, 1)), ((6, 6), (1, 6, 6, 3))])
def test_inputs_that_do_not_fit(size, shape):
    model, variables = make(SMALL, size, 1)
    with pytest.raises(ValueError, match=re.escape(f"inputs have the shape {shape}")):
        model.bind(variables).inject(np.zeros(shape, np.float32))
