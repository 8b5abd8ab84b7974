"""Optimizers and schedules against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.training.optim import batch_size_warning, create_optimizer, learning_rate
from mdeq_jax.vision.config import OptimConfig, finalize


def test_cosine_falls_to_the_floor():
    optim = OptimConfig(learning_rate=0.1, learning_rate_floor=1e-6)
    schedule = learning_rate(optim, steps=40, steps_per_epoch=5)
    t = np.arange(41)
    expected = 1e-6 + (0.1 - 1e-6) * (1 + np.cos(np.pi * t / 40)) / 2
    np.testing.assert_allclose([schedule(k) for k in t], expected, rtol=1e-5, atol=1e-8)


def test_poly_falls_to_nothing():
    schedule = learning_rate(OptimConfig(learning_rate=0.1, schedule="poly"), 40, steps_per_epoch=5)
    t = np.arange(41)
    np.testing.assert_allclose(
        [schedule(k) for k in t], 0.1 * (1 - t / 40) ** 0.9, rtol=1e-5, atol=1e-8
    )


def test_step_falls_at_the_epochs():
    optim = OptimConfig(learning_rate=0.1, schedule="step", step_epochs=(2, 6), step_factor=0.5)
    schedule = learning_rate(optim, steps=40, steps_per_epoch=5)
    np.testing.assert_allclose(
        [schedule(k) for k in (0, 9, 10, 29, 30, 39)], [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]
    )


def test_constant():
    schedule = learning_rate(
        OptimConfig(learning_rate=0.1, schedule="constant"), steps=40, steps_per_epoch=5
    )
    assert schedule(0) == schedule(39) == 0.1


def descend(optim: OptimConfig, gradients: list[float], start: float) -> list[float]:
    """Parameter after each of some given gradients."""
    optimizer = create_optimizer(optim, steps=len(gradients), steps_per_epoch=1)
    x = jnp.float32(start)
    state, path = optimizer.init(x), []
    for gradient in gradients:
        update, state = optimizer.update(jnp.float32(gradient), state, x)
        x = x + update
        path.append(float(x))
    return path


def test_adam_takes_weight_decay_into_its_moments():
    optim = OptimConfig(learning_rate=0.1, schedule="constant", weight_decay=0.5)
    x, m, v, expected = 2.0, 0.0, 0.0, []
    for k, gradient in enumerate([1.0, -3.0, 0.5], start=1):
        g = gradient + 0.5 * x
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x -= 0.1 * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        expected.append(x)
    np.testing.assert_allclose(descend(optim, [1.0, -3.0, 0.5], 2.0), expected, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_as_in_pytorch(nesterov):
    optim = OptimConfig(
        "sgd", 0.1, "constant", weight_decay=0.5, momentum=0.8, nesterov=nesterov, clip_norm=2.0
    )
    x, buffer, expected = 2.0, 0.0, []
    for gradient in [1.0, -3.0, 0.5]:
        g = np.clip(gradient, -2.0, 2.0) + 0.5 * x
        buffer = 0.8 * buffer + g
        x -= 0.1 * (g + 0.8 * buffer if nesterov else buffer)
        expected.append(x)
    np.testing.assert_allclose(descend(optim, [1.0, -3.0, 0.5], 2.0), expected, rtol=1e-5)


def test_rmsprop_as_in_pytorch():
    optim = OptimConfig("rmsprop", 0.1, "constant", weight_decay=0.5, momentum=0.8)
    x, v, buffer, expected = 2.0, 0.0, 0.0, []
    for gradient in [1.0, -3.0, 0.5]:
        g = gradient + 0.5 * x
        v = 0.99 * v + 0.01 * g * g
        buffer = 0.8 * buffer + g / (np.sqrt(v) + 1e-8)
        x -= 0.1 * buffer
        expected.append(x)
    np.testing.assert_allclose(descend(optim, [1.0, -3.0, 0.5], 2.0), expected, rtol=1e-5)


@pytest.mark.parametrize(("size", "rate"), [(16, "0.05"), (128, "0.4"), (31, None), (63, None)])
def test_a_batch_far_from_the_recipes(size, rate):
    recipe = finalize({"data": {"batch_size": 32}, "optim": {"learning_rate": 0.1}})
    config = finalize({"data": {"batch_size": size}, "optim": {"learning_rate": 0.1}})
    warning = batch_size_warning(config, recipe)
    if rate is None:
        assert warning is None
    else:
        assert f"data.batch_size is {size}" in warning
        assert "0.1, is for batches of 32" in warning
        assert warning.endswith(f"optim.learning_rate would be {rate}.")


def test_a_batch_with_a_learning_rate_of_its_own():
    recipe = finalize({"data": {"batch_size": 32}, "optim": {"learning_rate": 0.1}})
    config = finalize({"data": {"batch_size": 128}, "optim": {"learning_rate": 0.4}})
    assert batch_size_warning(config, recipe) is None
