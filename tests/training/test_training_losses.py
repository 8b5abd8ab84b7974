"""Masked regression losses: cases worked by hand, gradients, and means over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from test_steps import mesh_of

from mdeq_jax.training.losses import l1_loss, l2_loss, masked_mean

PREDICTION = np.array([[1.0, 2.0], [3.0, 5.0]])
TARGET = np.array([[0.0, 4.0], [0.0, 5.0]])  # errors 1, -2, 3, 0
MASK = np.array([[True, True], [False, True]])
ROWS = np.array([[True], [False]])


@pytest.mark.parametrize(
    ("loss", "mask", "expected"),
    [
        (l1_loss, None, 6 / 4),
        (l1_loss, MASK, 3 / 3),
        (l1_loss, ROWS, 3 / 2),  # each row's mask counts for both of its values
        (l2_loss, None, 14 / 4),
        (l2_loss, MASK, 5 / 3),
        (l2_loss, ROWS, 5 / 2),
    ],
)
def test_losses_by_hand(x64, loss, mask, expected):
    mask = None if mask is None else jnp.asarray(mask)
    found = loss(jnp.asarray(PREDICTION), jnp.asarray(TARGET), mask)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("loss", "slopes"),
    [(l1_loss, [[1 / 3, -1 / 3], [0, 0]]), (l2_loss, [[2 / 3, -4 / 3], [0, 0]])],
)
def test_a_target_of_nan_is_harmless_where_it_is_masked(x64, loss, slopes):
    target = jnp.asarray(np.where(MASK, TARGET, np.nan))
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(PREDICTION), target, jnp.asarray(MASK))
    expected = {l1_loss: 1.0, l2_loss: 5 / 3}[loss]
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    # Where the error is 0, the derivative of |error| is between -1/3 and 1/3.
    assert abs(gradient[1, 1]) <= 1 / 3
    np.testing.assert_allclose(gradient.at[1, 1].set(0), slopes, rtol=1e-14)


@pytest.mark.parametrize("loss", [l1_loss, l2_loss])
def test_a_loss_of_which_all_is_masked_is_0_with_gradient_0(loss):
    nothing = jnp.zeros((2, 2), bool)
    target = jnp.full((2, 2), jnp.nan)
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(PREDICTION), target, nothing)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    assert masked_mean(jnp.ones(3), jnp.zeros(3, bool)) == 0


@pytest.mark.parametrize("loss", [l1_loss, l2_loss])
def test_half_precision_is_averaged_in_single(loss):
    rng = np.random.default_rng(0)
    prediction, target = (jnp.asarray(rng.normal(size=1000), jnp.bfloat16) for _ in range(2))
    assert loss(prediction, target).dtype == jnp.float32
    single = loss(prediction.astype(jnp.float32), target.astype(jnp.float32))
    assert loss(prediction, target) == single


def over_devices(function, *arrays):
    """Mean over 8 devices of what a function returns for each one's share."""
    spec = PartitionSpec("data")

    def part(*shares):
        return jax.lax.pmean(function(*shares, "data"), "data")

    specs = (spec,) * len(arrays)
    return jax.shard_map(part, mesh=mesh_of(8), in_specs=specs, out_specs=PartitionSpec())(*arrays)


def test_the_mean_over_devices_is_that_of_all_values(x64):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(16, 3)), rng.integers(0, 3, size=(16, 3)).astype(float)
    weights[:2] = 0  # the first device has nothing that counts
    expected = (values * weights).sum() / weights.sum()
    found = over_devices(masked_mean, values, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("loss", [l1_loss, l2_loss])
def test_losses_over_devices_are_those_of_the_whole(x64, loss):
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 16, 3))
    mask = rng.random((16, 1)) < 0.5
    mask[:2] = False  # the first device has nothing that counts
    found = over_devices(loss, prediction, target, mask)
    np.testing.assert_allclose(
        found, loss(*map(jnp.asarray, (prediction, target, mask))), rtol=1e-12
    )
