"""Changes of colour and boxes that hide parts of an image."""

import numpy as np
import pytest
from flow_layouts import assert_same, random_image

from mdeq_jax.flow.data.augmentation import Recipe, augment
from mdeq_jax.flow.data.colours import Jitter, colour_jitter, erase

SIZE = (40, 56)


def generator(seed=0):
    return np.random.default_rng(seed)


def dense_example():
    images = {"first": random_image(1, SIZE), "second": random_image(2, SIZE)}
    return images | {"flow": np.zeros((*SIZE, 2), np.float32), "valid": np.ones(SIZE, bool)}


def test_jitter_of_strength_zero_is_the_identity():
    image = random_image(0)
    np.testing.assert_array_equal(colour_jitter(image, Jitter(), generator()), image)


def test_brightness_multiplies():
    image = random_image(0)
    factor = np.random.default_rng(1)
    factor.permutation(4)
    expected = np.clip(image * factor.uniform(0.6, 1.4), 0, 255)
    found = colour_jitter(image, Jitter(brightness=0.4), generator(1))
    np.testing.assert_allclose(found, expected, atol=1)
    assert (found != image).any()


def test_contrast_keeps_the_mean_grey():
    image = np.clip(random_image(0), 100, 150)
    found = colour_jitter(image, Jitter(contrast=0.4), generator(2)).astype(float)
    luma = [0.299, 0.587, 0.114]
    assert (found @ luma).mean() == pytest.approx((image @ luma).mean(), abs=1)
    assert abs(found.std() / image.std() - 1) > 0.05


def test_saturation_keeps_grey():
    luma = [0.299, 0.587, 0.114]
    image = np.clip(random_image(0), 100, 150)
    found = colour_jitter(image, Jitter(saturation=0.4), generator(3))
    np.testing.assert_allclose(found @ luma, image @ luma, atol=1.5)
    assert (found != image).mean() > 0.5
    grey = np.dstack([image[..., 0]] * 3)
    np.testing.assert_array_equal(colour_jitter(grey, Jitter(saturation=0.4), generator(3)), grey)


def test_hue_keeps_the_largest_channel_and_grey():
    image = random_image(0)
    found = colour_jitter(image, Jitter(hue=0.3), generator(4))
    np.testing.assert_allclose(found.max(-1), image.max(-1), atol=1)
    assert (found.argmax(-1) != image.argmax(-1)).mean() > 0.1
    grey = np.dstack([image[..., 0]] * 3)
    np.testing.assert_array_equal(colour_jitter(grey, Jitter(hue=0.3), generator(4)), grey)


def test_hue_turns_by_at_most_its_strength():
    red = np.full((2, 2, 3), [255, 0, 0], np.uint8)
    turns = [colour_jitter(red, Jitter(hue=1 / 12), generator(seed))[0, 0] for seed in range(100)]
    for turned in turns:
        assert turned[0] == 255
        assert max(turned[1:]) <= 127 + 3  # 1/12 of a turn is half the way to yellow or magenta
        assert min(turned[1:]) == 0
    assert min(np.max(turns, axis=0)[1:]) > 100


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_both_images_have_one_jitter_unless_apart(apart):
    recipe = Recipe(jitter=Jitter(brightness=0.4), jitter_apart=apart)
    example = dense_example()
    example["second"] = example["first"]
    found = augment(example, recipe, SIZE, generator())
    assert (found["first"] != example["first"]).any()
    assert (found["first"] != found["second"]).any() == bool(apart)


def test_erased_boxes():
    image = random_image(0, SIZE)
    areas = []
    for seed in range(100):
        found = erase(image, 1, (5, 9), generator(seed))
        hidden = (found == image.mean((0, 1)).astype(np.uint8)).all(-1)
        rows, columns = hidden.any(1), hidden.any(0)
        np.testing.assert_array_equal(found[~hidden], image[~hidden])
        assert max(rows.sum(), columns.sum()) <= 9
        if not rows[-1] and not columns[-1]:
            assert hidden.sum() == rows.sum() * columns.sum()
            areas.append((rows.sum(), columns.sum()))
    assert (np.min(areas, axis=0) == 5).all()
    assert (np.max(areas, axis=0) == 9).all()
    np.testing.assert_array_equal(image, random_image(0, SIZE))


def test_only_the_second_image_has_boxes():
    recipe = Recipe(erase=1.0, erase_sides=(5, 9))
    found = augment(dense_example(), recipe, SIZE, generator())
    expected = dense_example()
    assert (found["second"] != expected["second"]).any()
    assert_same({**found, "second": expected["second"]}, expected)
