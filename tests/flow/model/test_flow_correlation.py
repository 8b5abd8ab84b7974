"""Correlation and its lookup against brute force, and what must hold for any features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mdeq_jax.flow.model.correlation import correlation_pyramid, lookup

RNG = np.random.default_rng(0)


def interpolate(image, x, y):
    """The bilinear interpolation of one image, 0 outside, by its definition."""
    value = 0.0
    for row in (np.floor(y), np.floor(y) + 1):
        for column in (np.floor(x), np.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                value += weight * image[int(row), int(column)]
    return value


def brute_force(pyramid, flow, radius):
    offsets = range(-radius, radius + 1)
    result = np.zeros((*flow.shape[:3], len(pyramid), len(offsets), len(offsets)))
    for index in np.ndindex(result.shape):
        sample, row, column, i, m, n = index
        x, y = (np.array([column, row]) + flow[sample, row, column]) / 2**i
        image = pyramid[i][sample, row, column]
        result[index] = interpolate(image, x + offsets[m], y + offsets[n])
    return result.reshape(*flow.shape[:3], -1)


FLOWS = {
    "near": RNG.normal(size=(2, 4, 6, 2)),
    "outside": RNG.uniform(-30, 30, size=(2, 4, 6, 2)),
    "whole": RNG.integers(-7, 8, size=(2, 4, 6, 2)).astype(float),
    "far": RNG.choice([-1e12, 1e12, 0.5], size=(2, 4, 6, 2)),
}


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("kind", FLOWS)
def test_lookup_is_bilinear_interpolation(x64, kind, radius):
    # The levels' sides are 4×6, 2×3 and 1×1.
    first, second = RNG.normal(size=(2, 2, 4, 6, 5))
    pyramid = correlation_pyramid(first, second, 3)
    ours = jax.jit(lookup, static_argnums=2)(pyramid, FLOWS[kind], radius)
    theirs = brute_force([np.array(level) for level in pyramid], FLOWS[kind], radius)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_pyramid_averages_correlations(x64):
    first, second = RNG.normal(size=(2, 1, 3, 5, 4))
    fine, coarse = correlation_pyramid(first, second, 2)
    assert fine[0, 1, 2, 2, 3] == pytest.approx(first[0, 1, 2] @ second[0, 2, 3] / 2)
    assert coarse.shape == (1, 3, 5, 1, 2)
    assert coarse[0, 2, 4, 0, 1] == pytest.approx(fine[0, 2, 4, :2, 2:4].mean())


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 2), (-1, 1)])
def test_the_peak_is_in_the_centre_where_the_flow_is_right(shift):
    first = RNG.normal(size=(1, 8, 8, 16))
    first /= np.linalg.norm(first, axis=-1, keepdims=True)
    second = np.roll(first, shift, axis=(2, 1))
    inside = slice(2, 6)
    flow = np.broadcast_to(np.float32(shift), (1, 8, 8, 2))
    windows = lookup(correlation_pyramid(first, second, 1), flow, 2)[0, inside, inside]
    np.testing.assert_array_equal(windows.argmax(axis=-1), 12)
    # Without the flow, the peak is where x and then y of the shift stand in the window.
    windows = lookup(correlation_pyramid(first, second, 1), 0 * flow, 2)[0, inside, inside]
    np.testing.assert_array_equal(windows.argmax(axis=-1), 12 + 5 * shift[0] + shift[1])


def test_derivatives(x64):
    features, flow = RNG.normal(size=(2, 1, 4, 4, 3)), FLOWS["near"][:1, :, :4]
    pyramid = correlation_pyramid(*features, 2)
    weights = RNG.normal(size=(1, 4, 4, 18))

    def loss(pyramid, flow):
        return (lookup(pyramid, flow, 1) * weights).sum()

    check_grads(jax.jit(loss), (pyramid, flow), order=1, modes=["rev"], atol=1e-6)
    # At a whole pixel, the derivative is the one from the right.
    whole = np.zeros((1, 4, 4, 2))
    slope = (loss(pyramid, whole + 1e-6) - loss(pyramid, whole)) / 1e-6
    assert jax.grad(loss, argnums=1)(pyramid, whole).sum() == pytest.approx(float(slope), rel=1e-4)


def test_a_flow_of_one_pixel_moves_the_window_by_one():
    first, second = RNG.normal(size=(2, 1, 6, 6, 4)).astype(np.float32)
    pyramid = correlation_pyramid(first, second, 1)
    still, moved = (
        lookup(pyramid, jnp.zeros((1, 6, 6, 2)) + at, 2).reshape(1, 6, 6, 5, 5)
        for at in (0, jnp.array([1.0, 0.0]))
    )
    np.testing.assert_array_equal(moved[..., :-1, :], still[..., 1:, :])
