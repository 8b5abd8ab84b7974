"""Losses of pixels: cases worked by hand, and a plain NumPy reference."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.vision.config import LossConfig
from mdeq_jax.vision.losses import hard_pixels, segmentation_loss

FIXTURES = Path(__file__).parents[1] / "fixtures"

# Logits of two classes whose odds are those of the probabilities given.
PROBABILITIES = np.array([[0.75, 0.5], [0.2, 0.9]])
LOGITS = np.log(np.stack([PROBABILITIES, 1 - PROBABILITIES], axis=-1))[None]
LABELS = np.array([[[0, 0], [1, 255]]], np.int32)  # of probability 0.75, 0.5, 0.8; one ignored
P = np.array([0.75, 0.5, 0.8])


def loss(options=None, labels=LABELS, logits=LOGITS):
    value = segmentation_loss(jnp.asarray(logits), jnp.asarray(labels), options or LossConfig())
    return float(value)


def test_the_mean_leaves_out_what_is_ignored(x64):
    np.testing.assert_allclose(loss(), -np.log(P).mean(), rtol=1e-14)


def test_the_mean_is_weighted_by_class(x64):
    weighted = -(2 * np.log(0.75) + 2 * np.log(0.5) + 5 * np.log(0.8)) / 9
    np.testing.assert_allclose(loss(LossConfig(class_weights=(2.0, 5.0))), weighted, rtol=1e-14)


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [
        (0.6, 1, [0.5]),  # the threshold passes one, and min_kept asks for no more
        (0.6, 2, [0.5, 0.75]),  # raised to 0.8, which is not itself below it
        (0.6, 3, [0.5, 0.75]),  # there are only three pixels: as if 2
        (0.79, 1, [0.5, 0.75]),
        (0.9, 1, [0.5, 0.75, 0.8]),
        (0.1, 1, [0.5]),
    ],
)
def test_ohem_keeps_the_hard_ones(x64, threshold, min_kept, kept):
    options = LossConfig(ohem=True, ohem_threshold=threshold, ohem_min_kept=min_kept)
    np.testing.assert_allclose(loss(options), -np.log(kept).mean(), rtol=1e-14)


def test_ohem_weighs_but_does_not_divide_by_weights(x64):
    options = LossConfig((2.0, 5.0), ohem=True, ohem_threshold=0.79, ohem_min_kept=1)
    np.testing.assert_allclose(loss(options), -2 * np.log([0.75, 0.5]).mean(), rtol=1e-14)


@pytest.mark.parametrize("ohem", [False, True])
def test_nothing_but_ignored_pixels_is_no_loss(ohem):
    nothing = jnp.full((1, 2, 2), 255)
    value, gradient = jax.value_and_grad(segmentation_loss)(
        jnp.asarray(LOGITS), nothing, LossConfig(ohem=ohem)
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_the_loss_of_the_originals(x64):
    figures = np.load(FIXTURES / "seg4.npz")
    logits = np.moveaxis(figures["logits"], 1, -1).astype(np.float64)
    value = segmentation_loss(jnp.asarray(logits), jnp.asarray(figures["labels"]), LossConfig())
    np.testing.assert_allclose(value, figures["loss"], rtol=0, atol=1e-6)


def reference_upsampling(logits, size):
    """align_corners=True by interpolating along one axis, then along the other."""
    for axis, n in zip((1, 2), size, strict=True):
        m = logits.shape[axis]
        interpolate = functools.partial(np.interp, np.linspace(0, m - 1, n), np.arange(m))
        logits = np.apply_along_axis(interpolate, axis, logits)
    return logits


def reference_loss(logits, labels, weights, ohem, threshold, min_kept):
    """Pixel by pixel, as PyTorch's cross-entropy and the originals' OHEM are described."""
    logits = reference_upsampling(logits, labels.shape[1:])
    losses, chances, scales = [], [], []
    for at in zip(*np.nonzero(labels != 255), strict=True):
        row, label = logits[at], labels[at]
        chance = np.exp(row[label]) / np.exp(row).sum()
        losses.append(-np.log(chance))
        chances.append(chance)
        scales.append(weights[label])
    losses, chances, scales = map(np.array, (losses, chances, scales))
    if not ohem:
        return (scales * losses).sum() / scales.sum()
    cut = max(threshold, np.sort(chances)[min(min_kept, len(chances) - 1)])
    return (scales * losses)[chances < cut].mean()


def random_case(seed, classes=5):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, 4, 6, classes)) * 2
    labels = rng.integers(0, classes, size=(3, 9, 14)).astype(np.int32)
    labels[rng.random(labels.shape) < 0.3] = 255
    return logits, labels, tuple(rng.uniform(0.5, 2, classes).tolist())


@pytest.mark.parametrize(
    ("ohem", "threshold", "min_kept"),
    [(False, 0.9, 1), (True, 0.3, 10), (True, 0.3, 200), (True, 0.3, 10**6), (True, 0.9, 10)],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_of_random_labels(x64, seed, ohem, threshold, min_kept):
    logits, labels, weights = random_case(seed)
    options = LossConfig(weights, ohem, threshold, min_kept)
    expected = reference_loss(logits, labels, weights, ohem, threshold, min_kept)
    np.testing.assert_allclose(loss(options, labels, logits), expected, rtol=1e-12)
    single = loss(options, labels, logits.astype(np.float32))
    np.testing.assert_allclose(single, expected, rtol=1e-5)


def test_the_gradient_by_finite_differences(x64):
    logits, labels, weights = random_case(0)
    direction = np.random.default_rng(1).normal(size=logits.shape)
    for ohem in (False, True):
        options = LossConfig(weights, ohem, 0.3, 100)
        of = jax.jit(lambda x, options=options: segmentation_loss(x, jnp.asarray(labels), options))
        slope = (jax.grad(of)(logits) * direction).sum()
        difference = (of(logits + 1e-6 * direction) - of(logits - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_half_precision_logits_are_taken_in_single():
    logits, labels, _ = random_case(0)
    half = jnp.asarray(logits, jnp.bfloat16)
    single = loss(None, labels, half.astype(jnp.float32))
    assert loss(None, labels, half) == single


def test_hard_pixels_of_equal_probability_are_none():
    """Strictly below: where all are equally hard, none is harder than the threshold they set."""
    equal, labels = jnp.full((1, 2, 3), 0.95), jnp.zeros((1, 2, 3), jnp.int32)
    assert not hard_pixels(equal, labels, 0.9, 2).any()
    assert hard_pixels(equal, labels, 0.96, 2).all()
