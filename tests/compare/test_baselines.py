"""The explicit models: as large as the equilibrium model, and the ODE solved as it says."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bases import load

from mdeq_jax.compare.baselines import (
    BASELINES,
    ConvBlock,
    NeuralODE,
    PooledLinear,
    ShiftedConv,
    create_baseline,
)
from mdeq_jax.compare.sizes import count_parameters
from mdeq_jax.models import create_model
from mdeq_jax.models.layers import Conv


def make_images(batch=2):
    return np.random.default_rng(0).normal(size=(batch, 4, 4, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", BASELINES)
def test_as_many_parameters_as_the_model(kind):
    if kind == "neural_ode":
        pytest.importorskip("diffrax")
    config = load("digits")
    model = create_baseline(kind, config)
    target = count_parameters(create_model(config.model), config.data.image_size)
    assert count_parameters(model, config.data.image_size) == pytest.approx(target, rel=0.07)


def test_the_shifted_products_are_the_convolution():
    x = make_images()
    variables = Conv(6).init(jax.random.key(0), x)
    expected = Conv(6).apply(variables, x)
    np.testing.assert_allclose(ShiftedConv(6).apply(variables, x), expected, atol=1e-5)


def test_the_neural_ode_follows_its_vector_field():
    pytest.importorskip("diffrax")
    model, images = NeuralODE(width=4, num_classes=3), make_images()
    variables = jax.jit(model.init)(jax.random.key(1), images)
    logits, evaluations = jax.jit(model.apply)(variables, images)

    @functools.partial(jax.jit, static_argnums=1)
    def by_euler(params, steps):
        def step(z, _):
            return z + ConvBlock(ShiftedConv).apply({"params": params["block"]}, z) / steps, None

        z = Conv(4).apply({"params": params["stem"]}, images)
        z, _ = jax.lax.scan(step, z, length=steps)
        return PooledLinear(3).apply({"params": params["head"]}, z)

    fine, coarse = (by_euler(variables["params"], steps) for steps in (400, 1))
    np.testing.assert_allclose(logits, fine, atol=2e-3)
    assert jnp.abs(coarse - fine).max() > 0.01
    assert evaluations[0] % 6 == 1


def test_without_diffrax_there_is_no_neural_ode(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        create_baseline("neural_ode", load("digits"))
    assert raised.value.name == "diffrax"
