"""Optimizers and schedules against their formulas and against PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.training.config import OptimConfig
from mdeq_jax.training.optim import (
    batch_size_warning,
    create_optimizer,
    learning_rate,
    update_ema,
)


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
def test_a_batch_far_from_the_config_files(size, rate):
    warning = batch_size_warning(size, 0.1, usual_batch_size=32, usual_learning_rate=0.1)
    if rate is None:
        assert warning is None
    else:
        assert f"data.batch_size is {size}" in warning
        assert "0.1, is for batches of 32" in warning
        assert warning.endswith(f"optim.learning_rate would be {rate}.")


def test_a_batch_with_a_learning_rate_of_its_own():
    assert batch_size_warning(128, 0.4, usual_batch_size=32, usual_learning_rate=0.1) is None


def rates(optim, steps, steps_per_epoch=5):
    """Learning rate of each step, as the compiled training step computes it."""
    schedule = jax.jit(learning_rate(optim, steps, steps_per_epoch))
    return np.array([schedule(jnp.int32(t)) for t in range(steps)])


def torch_rates(make_scheduler, learning_rate, steps, every=1):
    """Learning rate of each step of a PyTorch scheduler that is advanced every few steps."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
    scheduler, result = make_scheduler(torch.optim.lr_scheduler, optimizer), []
    for step in range(1, steps + 1):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0 and step < steps:
            scheduler.step()
    return result


def test_exponential_falls_at_each_interval():
    optim = OptimConfig(learning_rate=0.1, schedule="exponential", decay_rate=0.5, decay_steps=3)
    expected = 0.1 * 0.5 ** (np.arange(10) // 3)
    np.testing.assert_allclose(rates(optim, 10), expected, rtol=1e-6)


def test_exponential_as_in_pytorch_falls_each_epoch():
    optim = OptimConfig(learning_rate=0.1, schedule="exponential", decay_rate=0.9)
    expected = torch_rates(lambda of, optimizer: of.ExponentialLR(optimizer, 0.9), 0.1, 23, every=5)
    np.testing.assert_allclose(rates(optim, 23), expected, rtol=1e-5)


def test_one_cycle_rises_and_falls_in_straight_lines():
    optim = OptimConfig(learning_rate=0.5, schedule="one_cycle", cycle_rise=0.3)
    found = rates(optim, 20)
    assert np.argmax(found) == 5
    np.testing.assert_allclose(found[[0, 5, 19]], [0.02, 0.5, 2e-6], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.diff(found[:6]), 0.48 / 5, rtol=1e-4)
    np.testing.assert_allclose(np.diff(found[5:]), (2e-6 - 0.5) / 14, rtol=1e-4)


# In the last, the highest learning rate falls between two steps.
@pytest.mark.parametrize(("steps", "rise"), [(100, 0.05), (40, 0.3), (37, 0.21)])
def test_one_cycle_as_in_pytorch(steps, rise):
    optim = OptimConfig(learning_rate=0.1, schedule="one_cycle", cycle_rise=rise)
    expected = torch_rates(
        lambda of, optimizer: of.OneCycleLR(
            optimizer, 0.1, steps, pct_start=rise, cycle_momentum=False, anneal_strategy="linear"
        ),
        0.1,
        steps,
    )
    np.testing.assert_allclose(rates(optim, steps), expected, rtol=1e-4, atol=1e-8)


def test_one_cycle_of_one_step_is_finite():
    assert np.isfinite(rates(OptimConfig(schedule="one_cycle"), 1)).all()


SCHEDULES = ("cosine", "poly", "step", "exponential", "one_cycle", "constant")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_composes_with_every_schedule(schedule):
    optim = OptimConfig(learning_rate=0.1, schedule=schedule, step_epochs=(1, 3))
    warm = dataclasses.replace(optim, warmup_steps=8)
    factors = np.minimum(1, (np.arange(20) + 1) / 8)
    np.testing.assert_allclose(rates(warm, 20), factors * rates(optim, 20), rtol=1e-6)


def test_decoupled_weight_decay_bypasses_the_moments():
    optim = OptimConfig(
        "sgd", 0.1, "constant", weight_decay=0.5, weight_decay_mode="decoupled", nesterov=False
    )
    x, buffer, expected = 2.0, 0.0, []
    for gradient in [1.0, -3.0, 0.5]:
        buffer = 0.9 * buffer + gradient
        x -= 0.1 * (buffer + 0.5 * x)
        expected.append(x)
    np.testing.assert_allclose(descend(optim, [1.0, -3.0, 0.5], 2.0), expected, rtol=1e-5)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_weight_decay_of_adam_as_in_pytorch(mode):
    torch = pytest.importorskip("torch")
    optim = OptimConfig("adam", 0.1, "constant", weight_decay=0.5, weight_decay_mode=mode)
    x = torch.tensor(2.0, requires_grad=True)
    optimizer = (torch.optim.Adam if mode == "coupled" else torch.optim.AdamW)(
        [x], lr=0.1, weight_decay=0.5
    )
    gradients, expected = [1.0, -3.0, 0.5, 2.0], []
    for gradient in gradients:
        x.grad = torch.tensor(gradient)
        optimizer.step()
        expected.append(x.item())
    np.testing.assert_allclose(descend(optim, gradients, 2.0), expected, rtol=1e-5)


PARAMS = {"cell": {"bias": 1.0, "kernel": 2.0}, "head": {"bias": 3.0, "kernel": 4.0}}


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_groups_of_parameters(mode):
    """The first entry that matches counts, and what matches none is as without groups."""
    optim = OptimConfig(
        "sgd",
        0.1,
        "constant",
        weight_decay=0.5,
        weight_decay_mode=mode,
        groups=(("*/bias", 1.0, 0.0), ("cell/*", 0.25, 0.125)),
        momentum=0.0,
        nesterov=False,
    )
    params = jax.tree.map(jnp.float32, PARAMS)
    optimizer = create_optimizer(optim, steps=1, steps_per_epoch=1)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    bias, cell, head = -0.1, -0.1 * 0.25 * (1 + 0.125 * 2), -0.1 * (1 + 0.5 * 4)
    expected = {"cell": {"bias": bias, "kernel": cell}, "head": {"bias": bias, "kernel": head}}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), updates, expected)


@pytest.mark.parametrize("groups", [(("cel/*", 1.0, 0.0),), (("*", 1.0, 0.0), ("cel/*", 1.0, 0.0))])
def test_a_group_without_parameters(groups):
    optimizer = create_optimizer(OptimConfig(groups=groups), steps=1, steps_per_epoch=1)
    with pytest.raises(ValueError, match=r"entry 'cel/\*' that .* such as cell/bias, "):
        optimizer.init(jax.tree.map(jnp.float32, PARAMS))


def test_ema_is_the_weighted_sum_of_all_parameters():
    decay, values = 0.3, [5.0, -2.0, 1.0, 7.0, 4.0]
    ema, expected = {"w": jnp.float32(3.0)}, 3.0
    for step, value in enumerate(values):
        ema = jax.jit(update_ema)(ema, {"w": jnp.float32(value)}, step, decay)
        kept = [1 / 10, 2 / 11, 3 / 12, 0.3, 0.3][step]
        expected = kept * expected + (1 - kept) * value
    np.testing.assert_allclose(ema["w"], expected, rtol=1e-6)


def test_ema_keeps_the_dtype():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    ema = update_ema(params, params, jnp.int32(0), 0.999)
    assert ema["w"].dtype == jnp.bfloat16
