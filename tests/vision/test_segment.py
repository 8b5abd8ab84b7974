"""Segmentation of whole images against a plain NumPy reference, on models that are quick."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.layers.resize import resize_bilinear
from mdeq_jax.vision.config import InferenceConfig
from mdeq_jax.vision.segment import (
    at_scale,
    forward_padded,
    resize_unaligned,
    segment,
    window_starts,
)

WEIGHTS = np.random.default_rng(5).normal(size=(3, 4))


def make_images(*shape):
    return np.random.default_rng(0).normal(size=(*shape, 3))


def per_pixel(images):
    """A model whose logits depend on the pixel alone, at full resolution."""
    return jnp.tanh(images @ WEIGHTS), {"steps": jnp.arange(len(images), dtype=float)}


def coarse(images):
    """A model that sees columns differently from left to right, at half the resolution."""
    logits, statistics = per_pixel(images[:, ::2, ::2])
    ramp = jnp.linspace(0, 1, logits.shape[2])[:, None]
    return logits * ramp + jnp.roll(logits, 1, axis=1), statistics


def resized(image, size):
    """align_corners=False without averaging, one axis after the other, edges repeated."""
    for axis, n in enumerate(size):
        m = image.shape[axis]
        at = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, m - 1)
        part = (at - low).reshape(-1, *[1] * (image.ndim - axis - 1))
        image = (1 - part) * image.take(low, axis) + part * image.take(high, axis)
    return image


def image_resize(h, w, long_size):
    """The originals' rule for the size of a scaled image."""
    if h > w:
        return long_size, int(w * long_size / h + 0.5)
    return int(h * long_size / w + 0.5), long_size


def reference(model, image, scales, flip, window, divisor):
    """The originals' `multi_scale_inference` of one image, loop by loop; exp(logits) summed."""

    def seen(piece):
        height, width = piece.shape[:2]
        sides = [-(-side // divisor) * divisor for side in (height, width)]
        padded = np.zeros((*sides, 3))
        padded[:height, :width] = piece
        logits = np.asarray(model(jnp.asarray(padded)[None])[0][0])
        return resized(logits, sides)[:height, :width]

    def inference(piece):
        logits = seen(piece)
        if flip:
            logits = (logits + seen(piece[:, ::-1])[:, ::-1]) / 2
        return np.exp(logits)

    total = 0
    for scale in scales:
        height, width = image_resize(*image.shape[:2], int(max(image.shape) * scale + 0.5))
        scaled = resized(image, (height, width))
        if scale <= 1 or window is None:
            scores = inference(scaled)
        else:
            scores, count = np.zeros((height, width, 4)), np.zeros((height, width, 1))
            for row in range(int(np.ceil((height - window[0]) / window[0])) + 1):
                for column in range(int(np.ceil((width - window[1]) / window[1])) + 1):
                    bottom = min((row + 1) * window[0], height)
                    right = min((column + 1) * window[1], width)
                    top, left = max(bottom - window[0], 0), max(right - window[1], 0)
                    place = np.s_[top:bottom, left:right]
                    scores[place] += inference(scaled[place])
                    count[place] += 1
            scores = scores / count
        total = total + resized(scores, image.shape[:2])
    return total


@pytest.mark.parametrize(
    ("scales", "flip", "window"),
    [
        ((1.0,), True, None),
        ((0.5, 1.0, 1.25, 1.75), False, None),  # at 1.25, 12×16, where 12.5 would be rounded to 13
        ((2.0,), False, (8, 12)),
        ((0.7, 1.0, 1.5), True, (6, 5)),
        ((1.5,), False, (64, 6)),  # higher than the image
    ],
)
@pytest.mark.parametrize("model", [per_pixel, coarse])
def test_is_the_reference(x64, model, scales, flip, window):
    images = make_images(2, 10, 13)
    options = InferenceConfig(flip=flip, scales=scales, window=window)
    logits, _ = segment(model, jnp.asarray(images), options, divisor=4)
    expected = [reference(model, image, scales, flip, window, 4) for image in images]
    np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-10)


def test_windows_of_a_model_that_acts_per_pixel_are_the_whole_image(x64):
    images = jnp.asarray(make_images(2, 10, 13))
    seen = [
        segment(per_pixel, images, InferenceConfig(scales=(2.0,), window=window), divisor=4)[0]
        for window in (None, (7, 5), (20, 26))
    ]
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(seen[2], seen[0], rtol=1e-12, atol=1e-12)


def test_a_plain_pass_aligns_corners_and_crops(x64):
    images = jnp.asarray(make_images(2, 10, 13))
    logits, statistics = segment(coarse, images, InferenceConfig(), divisor=4)
    padded = jnp.pad(images, [(0, 0), (0, 2), (0, 3), (0, 0)])
    expected = resize_bilinear(coarse(padded)[0], (12, 16))[:, :10, :13]
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(statistics["steps"], [0, 1])


def test_what_a_size_needs_no_padding_for_is_not_padded():
    sizes = []

    def model(images):
        sizes.append(images.shape[1:3])
        return images, {}

    forward_padded(model, jnp.zeros((1, 8, 12, 3)), 4)
    forward_padded(model, jnp.zeros((1, 1, 13, 3)), 4)
    assert sizes == [(8, 12), (4, 16)]


def test_the_mirrored_image_is_mirrored_back(x64):
    images = jnp.asarray(make_images(1, 8, 8))
    flipped = InferenceConfig(flip=True)
    logits, _ = segment(coarse, images, flipped, divisor=4)
    mirrored, _ = segment(coarse, images[:, :, ::-1], flipped, divisor=4)
    np.testing.assert_allclose(mirrored[:, :, ::-1], logits, rtol=1e-12, atol=1e-12)


def test_statistics_are_means_over_all_passes():
    def model(images):
        return images, {"steps": jnp.full(len(images), float(images.shape[2]))}

    options = InferenceConfig(flip=True, scales=(1.0, 2.0), window=(8, 4))
    _, statistics = segment(model, jnp.zeros((3, 8, 8, 3)), options, divisor=4)
    # Two passes of width 8; at scale 2, 2 × 4 windows of width 4, each seen twice.
    np.testing.assert_allclose(statistics["steps"], np.full(3, (2 * 8 + 16 * 4) / 18))


def test_large_logits_do_not_overflow():
    def model(images):
        return 1e4 * images, {}

    images = jnp.asarray(make_images(1, 8, 8), jnp.float32)
    logits, _ = segment(model, images, InferenceConfig(flip=True, scales=(1.0, 1.0)), divisor=4)
    np.testing.assert_array_equal(logits.argmax(-1), images.argmax(-1))


def test_pixels_far_below_the_largest_logit_keep_their_labels():
    """As where a model is sure of one half of the image and not at all of the other."""
    images = np.full((1, 8, 16, 3), [[500.0, 498, 499]], np.float32)
    images[:, :, 8:] = [-500, -499, -498]
    options = InferenceConfig(flip=True, scales=(0.5, 1.0, 2.0), window=(6, 8))
    logits, _ = segment(lambda x: (x, {}), jnp.asarray(images), options, divisor=4)
    away = np.abs(np.arange(16) - 7.5) > 2  # from where the halves are mixed
    np.testing.assert_array_equal(logits.argmax(-1)[..., away], images.argmax(-1)[..., away])


def test_one_pass_over_the_image_has_the_models_logits():
    images = jnp.asarray(make_images(2, 8, 12), jnp.float32)
    logits, _ = at_scale(lambda x: (x, {}), images, 1.0, InferenceConfig(), divisor=4)
    np.testing.assert_array_equal(logits, images)


@pytest.mark.parametrize(
    ("side", "window", "starts"),
    [(8, 4, [0, 4]), (9, 4, [0, 4, 5]), (4, 4, [0]), (5, 4, [0, 1]), (12, 5, [0, 5, 7])],
)
def test_windows_lie_side_by_side(side, window, starts):
    assert window_starts(side, window) == starts


@pytest.mark.parametrize("size", [(7, 5), (3, 8), (20, 31), (1, 1)])
def test_the_unaligned_resize_is_the_formula(x64, size):
    images = make_images(2, 7, 10)
    expected = np.stack([resized(image, size) for image in images])
    np.testing.assert_allclose(
        resize_unaligned(jnp.asarray(images), size), expected, rtol=1e-12, atol=1e-12
    )
