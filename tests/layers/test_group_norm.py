"""GroupNorm against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.layers.modules import GroupNorm


def definition(x, groups):
    batch, height, width, channels = x.shape
    parts = x.reshape(batch, height, width, groups, channels // groups)
    mean = parts.mean((1, 2, 4), keepdims=True)
    variance = parts.var((1, 2, 4), keepdims=True)
    return ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_definition(x64, groups):
    x = np.random.default_rng(0).normal(1.0, 2.0, size=(2, 3, 4, 6))
    y = GroupNorm(groups, affine=False).apply({}, x)
    np.testing.assert_allclose(y, definition(x, groups), rtol=1e-10, atol=1e-10)


def test_no_images_stay_none():
    x = jnp.zeros((0, 3, 4, 6))
    y, gradient = jax.value_and_grad(lambda x: GroupNorm(2, affine=False).apply({}, x).sum())(x)
    assert (y, gradient.shape) == (0, x.shape)


def test_scale_and_bias_follow(x64):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6))
    params = {"scale": jnp.arange(6.0), "bias": jnp.arange(6.0) - 2}
    y = GroupNorm(3).apply({"params": params}, x)
    expected = definition(x, 3) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)


def test_a_large_mean_does_not_cancel_in_float32():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32) + 1000
    y = GroupNorm(2, affine=False).apply({}, x)
    np.testing.assert_allclose(y, definition(x.astype(np.float64), 2), atol=1e-3)


def test_bfloat16_is_normalised_in_float32_and_returned_in_bfloat16():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 4)), jnp.bfloat16)
    y = GroupNorm(2, affine=False).apply({}, x)
    assert y.dtype == jnp.bfloat16
    exact = definition(np.asarray(x, np.float64), 2)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8, atol=1e-6)


def test_parameters_only_where_affine():
    x = jnp.zeros((1, 2, 2, 4))
    params = GroupNorm(2).init(jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, params) == {"scale": (4,), "bias": (4,)}
    assert not GroupNorm(2, affine=False).init(jax.random.key(0), x)
