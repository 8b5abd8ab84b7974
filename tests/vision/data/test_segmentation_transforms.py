"""Augmentation: image and label move as one, over the originals' scales, and by the seed alone."""

import numpy as np
import pytest

from mdeq_jax.vision.data.dataset import IMAGENET
from mdeq_jax.vision.data.segmentation_transforms import (
    MEAN_COLOUR,
    SCALE_TENTHS,
    augmented,
    centred,
    pad,
    random_crop,
    random_scale,
    whole,
)


def blocks(height, width, side=16, seed=0):
    """An image whose red channel is ten times its label, both constant in blocks."""
    ids = np.random.default_rng(seed).integers(0, 20, (height // side, width // side), np.uint8)
    label = np.kron(ids, np.ones((side, side), np.uint8))
    return np.stack([10 * label, 0 * label, 255 - label], axis=-1), label


def test_scales_are_those_of_the_originals():
    image, label = np.zeros((64, 128, 3), np.uint8), np.zeros((64, 128), np.uint8)
    widths = set()
    for seed in range(150):
        _, scaled = random_scale(image, label, np.random.default_rng(seed), SCALE_TENTHS)
        widths.add(scaled.shape[1])
    assert widths == {int(128 * (0.5 + k / 10) + 0.5) for k in range(17)}


def test_sizes_are_rounded_as_the_originals_do():
    """There the longer side of 2048 becomes int(2048 scale + 0.5), the other follows from that."""
    image, label = np.zeros((1024, 2048, 3), np.uint8), np.zeros((1024, 2048), np.uint8)
    for k in range(17):
        longer = int(2048 * (0.5 + k / 10) + 0.5)
        for height, width in [(1024, 2048), (2048, 1024)]:
            pixels = image.reshape(height, width, 3), label.reshape(height, width)
            scaled = random_scale(*pixels, np.random.default_rng(0), tenths=(5 + k, 5 + k))
            expected = [int(side * longer / 2048 + 0.5) for side in (height, width)]
            assert list(scaled[1].shape) == list(scaled[0].shape[:2]) == expected


def test_scaled_labels_are_labels():
    image, label = blocks(64, 96)
    label = np.where(label > 9, 200, 0).astype(np.uint8)
    for tenths in (5, 7, 13, 21):
        generator = np.random.default_rng(0)
        _, scaled = random_scale(image, label, generator, tenths=(tenths, tenths))
        assert set(np.unique(scaled)) == {0, 200}


def test_a_crop_is_taken_at_every_place():
    image, label = blocks(32, 48, side=1)
    places = set()
    for seed in range(100):
        crop, cropped = random_crop(image, label, (30, 45), np.random.default_rng(seed))
        assert crop.shape == (30, 45, 3)
        (place,) = [
            (top, left)
            for top in range(3)
            for left in range(4)
            if (label[top : top + 30, left : left + 45] == cropped).all()
        ]
        np.testing.assert_array_equal(crop[..., 0], 10 * cropped)
        places.add(place)
    assert len(places) == 12


def test_a_side_shorter_than_the_crop_stays_whole():
    image, label = blocks(16, 64)
    crop, cropped = random_crop(image, label, (32, 32), np.random.default_rng(0))
    assert crop.shape == (16, 32, 3)
    assert cropped.shape == (16, 32)


def test_padding_is_the_mean_colour_and_ignored():
    example = {"image": np.ones((3, 4, 3), np.uint8), "label": np.ones((3, 4), np.int32)}
    padded = pad(example, (5, 6))
    assert padded["image"].dtype == np.uint8
    assert padded["label"].dtype == np.int32
    inside = np.zeros((5, 6), bool)
    inside[:3, :4] = True
    np.testing.assert_array_equal(padded["image"], np.where(inside[..., None], 1, MEAN_COLOUR))
    np.testing.assert_array_equal(padded["label"], np.where(inside, 1, 255))
    assert np.abs(IMAGENET(padded["image"])[~inside]).max() < 0.01


@pytest.mark.parametrize("size", [(48, 64), (200, 300)])
def test_image_and_label_move_as_one(size):
    """Where labels agree over 5×5 pixels, the red channel of the image must say the label."""
    image, label = blocks(96, 128)
    checked = padded = 0
    for seed in range(40):
        result = augmented({"image": image, "label": label}, np.random.default_rng(seed), size=size)
        assert result["image"].shape == (*size, 3)
        assert result["label"].shape == size
        found = result["image"]
        windows = np.lib.stride_tricks.sliding_window_view(result["label"], (5, 5))
        flat = (windows.min(axis=(2, 3)) == windows.max(axis=(2, 3))) & (windows[..., 0, 0] < 255)
        centre = result["label"][2:-2, 2:-2]
        np.testing.assert_array_equal(found[2:-2, 2:-2, 0][flat], 10 * centre[flat])
        void = result["label"] == 255
        assert (result["image"][void] == MEAN_COLOUR).all()
        checked, padded = checked + flat.sum(), padded + void.sum()
    assert checked > 10_000
    assert (padded > 0) == (size == (200, 300))


def test_half_of_the_images_are_mirrored():
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (60, 1))
    example = {"image": np.stack([ramp] * 3, axis=-1), "label": ramp}
    mirrored = 0
    for seed in range(200):
        result = augmented(example, np.random.default_rng(seed), size=(20, 20))
        falls = result["label"][0, 0] > result["label"][0, -1]
        assert falls == (result["image"][0, 0, 0] > result["image"][0, -1, 0])
        mirrored += falls
    assert 75 < mirrored < 125


def test_the_generator_determines_everything():
    image, label = blocks(64, 96)
    example = {"image": image, "label": label}
    first, again, other = (
        augmented(example, np.random.default_rng(seed), size=(40, 40)) for seed in (1, 1, 2)
    )
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert not np.array_equal(first["image"], other["image"])
    np.testing.assert_array_equal(example["label"], blocks(64, 96)[1])


def test_without_augmentation_the_middle_is_taken():
    image, label = blocks(32, 64, side=1)
    result = centred({"image": image, "label": label}, np.random.default_rng(0), size=(16, 80))
    np.testing.assert_array_equal(result["label"][:, :64], label[8:24])
    assert (result["label"][:, 64:] == 255).all()
    np.testing.assert_array_equal(result["image"][:, :64], image[8:24])


def test_a_whole_image_is_padded_or_refused():
    image, label = blocks(32, 64)
    example = {"image": image, "label": label, "name": "street.png"}
    result = whole(example, (64, 64))
    np.testing.assert_array_equal(result["label"][:32], label)
    assert (result["label"][32:] == 255).all()
    for size in [(31, 64), (32, 63)]:
        with pytest.raises(ValueError, match=r"street.png.*\(32, 64\).*data\.eval_image_size"):
            whole(example, size)
