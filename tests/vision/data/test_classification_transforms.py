"""Crops, flips and colours, against torchvision's rules and Pillow's filters."""

import math

import numpy as np
import pytest
from archives import jpeg, photograph
from folders import encode
from PIL import Image

from mdeq_jax.vision.data.classification_transforms import (
    centre,
    colour_jitter,
    random_box,
    random_flip,
    random_resized_crop,
    random_shift,
    scaled_middle,
)
from mdeq_jax.vision.data.dataset import IMAGENET, Normalisation


def generators(count):
    return map(np.random.default_rng, range(count))


def ramp(height, width):
    """An image whose red says the row and whose green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("normalise", [IMAGENET, Normalisation((0.3,) * 3, (0.38,) * 3, 16)])
def test_normalisation(normalise):
    image = np.random.default_rng(0).integers(0, 17, (2, 5, 7, 3), np.uint8)
    expected = (image / normalise.white - normalise.mean) / normalise.deviation
    assert normalise(image).dtype == np.float32
    np.testing.assert_allclose(normalise(image), expected, atol=2e-6)


def test_boxes_have_torchvisions_distribution():
    """Where every draw fits: area uniform in [.08, 1] of which small ones, ratio log-uniform."""
    size = (1000, 1000)
    boxes = np.array([random_box(size, generator) for generator in generators(4000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1000).all()
    assert (left + width <= 1000).all()
    ratio = np.log(width / height)
    assert np.abs(ratio).max() <= math.log(4 / 3) + 0.01
    # Below 3/4 of the image every shape fits; the rest is rejected in part.
    area = height * width / 1e6
    assert 0.079 < area.min() < 0.085
    small = area[area < 0.75]
    expected = (0.08 + 0.75) / 2
    assert abs(small.mean() - expected) < 4 * 0.67 / math.sqrt(12 * len(small))
    quarters = np.histogram(ratio[area < 0.75], 4, (-math.log(4 / 3), math.log(4 / 3)))[0]
    assert np.abs(quarters / len(small) - 0.25).max() < 0.04
    # Places are uniform in what the box leaves.
    place = (top[area < 0.5] + 0.5) / (1001 - height[area < 0.5])
    assert abs(place.mean() - 0.5) < 0.02
    assert abs(place.std() - 1 / math.sqrt(12)) < 0.01


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((10, 200), (0, 93, 10, 13)),  # 10 · 4/3
        ((200, 10), (93, 0, 13, 10)),  # 10 / (3/4)
    ],
)
def test_where_no_draw_fits_it_is_the_middle(size, expected):
    assert {random_box(size, generator) for generator in generators(20)} == {expected}


def test_a_crop_is_the_box_resized():
    """Linear ramps survive bilinear resizing: each pixel says where it comes from."""
    encoded = encode(2 * ramp(100, 120))
    for seed in range(20):
        top, left, height, width = random_box((100, 120), np.random.default_rng(seed))
        found = random_resized_crop(encoded, "name", (64, 72), np.random.default_rng(seed))
        assert found.shape == (64, 72, 3)
        rows = top + (np.arange(64) + 0.5) * height / 64 - 0.5
        columns = left + (np.arange(72) + 0.5) * width / 72 - 0.5
        middle = np.s_[4:-4, 4:-4]
        assert np.abs(found[..., 0] - 2 * rows[:, None])[middle].max() < 1
        assert np.abs(found[..., 1] - 2 * columns)[middle].max() < 1


def test_a_crop_of_a_large_image_is_read_at_a_lower_resolution():
    """And yet shows the same part, to a pixel of the lower resolution."""
    image = np.repeat(np.repeat(ramp(125, 150), 8, axis=0), 8, axis=1)
    encoded = jpeg(image, quality=100, subsampling=0)
    for seed in range(10):
        top, left, height, width = random_box((1000, 1200), np.random.default_rng(seed))
        found = random_resized_crop(encoded, "name", (32, 32), np.random.default_rng(seed))
        rows = (top + (np.arange(32) + 0.5) * height / 32) / 8 - 0.5
        columns = (left + (np.arange(32) + 0.5) * width / 32) / 8 - 0.5
        assert np.abs(found[..., 0] - rows[:, None]).max() < 3
        assert np.abs(found[..., 1] - columns).max() < 3


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (256, 256), (300, 301), (120, 90)])
def test_the_centre_is_torchvisions(shape):
    """Resize(256), sides int(256 · long / short), by Pillow with averaging; CenterCrop(224)."""
    image = photograph(1, shape)
    short, long = sorted(shape)
    sides = [256 if side == short else int(256 * long / short) for side in shape]
    resized = Image.fromarray(image).resize(sides[::-1], Image.Resampling.BILINEAR)
    top, left = (round((side - 224) / 2.0) for side in sides)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)))
    np.testing.assert_array_equal(centre(image, (224, 224)), expected)


def test_a_shift_is_a_window_of_the_framed_image():
    image = ramp(32, 32) + 100
    framed = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    places = set()
    for generator in generators(600):
        found = random_shift(image, 4, generator)
        row, column = found[16, 16, :2].astype(int) - 100 - 12
        np.testing.assert_array_equal(found, framed[row : row + 32, column : column + 32])
        places.add((row, column))
    assert places == {(row, column) for row in range(9) for column in range(9)}


def test_half_of_the_images_are_mirrored():
    image = ramp(4, 5)
    mirrored = sum(random_flip(image, generator)[0, 0, 1] == 4 for generator in generators(400))
    assert 160 < mirrored < 240
    assert {random_flip(image, g).tobytes() for g in generators(9)} == {
        image.tobytes(),
        image[:, ::-1].tobytes(),
    }


def test_colours_change_within_bounds():
    image = photograph(0, (20, 30))
    assert (colour_jitter(image, 0.0, np.random.default_rng(0)) == image).all()
    flat = np.full((4, 4, 3), 100, np.uint8)
    levels = [int(colour_jitter(flat, 0.4, generator)[0, 0, 0]) for generator in generators(300)]
    # Contrast and saturation leave a flat grey as it is.
    assert 60 <= min(levels) < 65
    assert 135 < max(levels) <= 140
    changed = [colour_jitter(image, 0.4, generator) for generator in generators(50)]
    spread = [pixels.std(axis=2).mean() / image.std(axis=2).mean() for pixels in changed]
    assert min(spread) < 0.8
    assert max(spread) > 1.1


@pytest.mark.parametrize("shape", [(40, 64), (65, 16)])
def test_the_scaled_middle_has_the_sizes_ratio(shape):
    image = np.zeros((*shape, 3), np.uint8)
    side = min(shape)
    top, left = ((n - side) // 2 for n in shape)
    image[top : top + side, left : left + side] = 77
    assert (scaled_middle(image, (8, 8)) == 77).all()
