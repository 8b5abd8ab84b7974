"""The explicit models: as large as the equilibrium model, and the ODE solved as it says."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bases import load

from mdeq_jax.comparison import baselines
from mdeq_jax.comparison.baselines import (
    BASELINES,
    ConvBlock,
    NeuralODE,
    PooledLinear,
    ShiftedConv,
    create_baseline,
)
from mdeq_jax.comparison.sizes import count_parameters
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.model.layers import Conv


def make_images(batch=2):
    return np.random.default_rng(0).normal(size=(batch, 4, 4, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def ode():
    """A neural ODE and its variables."""
    model = NeuralODE(width=4, num_classes=3)
    return model, jax.jit(model.init)(jax.random.key(1), make_images())


@pytest.mark.parametrize("kind", BASELINES)
def test_as_many_parameters_as_the_model(kind):
    config = load("digits")
    model = create_baseline(kind, config)
    target = count_parameters(create_model(config.model), config.data.image_size)
    assert count_parameters(model, config.data.image_size) == pytest.approx(target, rel=0.07)


def test_the_shifted_products_are_the_convolution():
    x = make_images()
    variables = Conv(6).init(jax.random.key(0), x)
    expected = Conv(6).apply(variables, x)
    np.testing.assert_allclose(ShiftedConv(6).apply(variables, x), expected, atol=1e-5)


def test_the_neural_ode_follows_its_vector_field(ode):
    pytest.importorskip("diffrax")
    (model, variables), images = ode, make_images()
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


def test_an_ode_that_is_not_solved_is_not_a_number(monkeypatch, ode):
    pytest.importorskip("diffrax")
    monkeypatch.setattr(baselines, "_MAX_STEPS", 1)
    model, variables = ode
    logits, _ = jax.jit(model.apply)(variables, make_images())
    assert jnp.isnan(logits).all()


def test_without_diffrax_there_is_no_neural_ode(monkeypatch, ode):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    model, variables = ode
    with pytest.raises(ModuleNotFoundError) as raised:
        jax.eval_shape(model.apply, variables, make_images())
    assert raised.value.name == "diffrax"
