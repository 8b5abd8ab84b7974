"""The resize against the formula of align_corners, one pixel at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.layers.resize import resize_bilinear


def make_images(*shape, dtype=np.float32):
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def align_corners(image, size):
    """The formula, pixel by pixel, of a (h, w, C) image."""
    out = np.empty((*size, image.shape[-1]))
    for i, j in np.ndindex(*size):
        y, x = (
            k * (m - 1) / (n - 1) if n > 1 else 0.0
            for k, m, n in zip((i, j), image.shape, size, strict=False)
        )
        top, left = int(y), int(x)
        bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
        dy, dx = y - top, x - left
        upper = (1 - dx) * image[top, left] + dx * image[top, right]
        lower = (1 - dx) * image[bottom, left] + dx * image[bottom, right]
        out[i, j] = (1 - dy) * upper + dy * lower
    return out


SIZES = [((3, 4), (6, 8)), ((2, 5), (16, 7)), ((9, 7), (4, 3)), ((1, 1), (5, 2)), ((4, 3), (1, 1))]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_is_the_formula(x64, before, after):
    images = make_images(2, *before, 3, dtype=np.float64)
    expected = np.stack([align_corners(image, after) for image in images])
    resized = resize_bilinear(jnp.asarray(images), after)
    assert resized.dtype == jnp.float64
    np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-14)
    single = resize_bilinear(jnp.asarray(images, jnp.float32), after)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6)


def test_corners_and_planes_are_kept():
    plane = np.arange(4.0)[:, None] + 10 * np.arange(3.0)
    resized = resize_bilinear(jnp.asarray(plane, jnp.float32)[None, ..., None], (7, 9))[0, ..., 0]
    expected = np.linspace(0, 3, 7)[:, None] + 10 * np.linspace(0, 2, 9)
    np.testing.assert_allclose(resized, expected, atol=1e-5)


def test_the_same_size_is_the_same_image():
    images = jnp.asarray(make_images(1, 3, 4, 2))
    assert resize_bilinear(images, (3, 4)) is images


def test_half_precision_is_resized_in_single():
    images = jnp.asarray(make_images(1, 3, 4, 2))
    half = resize_bilinear(images.astype(jnp.bfloat16), (50, 61))
    single = resize_bilinear(images.astype(jnp.bfloat16).astype(jnp.float32), (50, 61))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, single.astype(jnp.bfloat16))


def test_gradient_is_the_transpose(x64):
    images = jnp.asarray(make_images(1, 3, 4, 1, dtype=np.float64))
    direction = jnp.asarray(make_images(1, 7, 5, 1, dtype=np.float64))
    _, pullback = jax.vjp(lambda x: resize_bilinear(x, (7, 5)), images)
    left = jnp.vdot(direction, resize_bilinear(images, (7, 5)))
    np.testing.assert_allclose(left, jnp.vdot(pullback(direction)[0], images), rtol=1e-12)
