"""What hides images, and the images."""

import numpy as np
import pytest

from mdeq_jax.inverse.generation.config import DataConfig
from mdeq_jax.inverse.generation.corruption import draw_corruption
from mdeq_jax.inverse.generation.data import image_size, load_images


def test_a_corruption_depends_on_its_seed_and_number_alone():
    first, again, *others = (
        draw_corruption(seed, number, (8, 9, 1), (2, 3))
        for seed, number in ((1, 7), (1, 7), (1, 8), (2, 7))
    )
    np.testing.assert_array_equal(first.noise, again.noise)
    np.testing.assert_array_equal(first.visible, again.visible)
    assert all((first.noise != other.noise).all() for other in others)


def test_noise_is_standard_and_the_box_is_everywhere():
    drawn = [draw_corruption(0, number, (8, 9, 1), (2, 3)) for number in range(400)]
    noise = np.stack([corruption.noise for corruption in drawn])
    # Standard errors of mean and deviation over 28,800 numbers are 0.006 and 0.004.
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.02
    hidden = np.stack([1 - corruption.visible[..., 0] for corruption in drawn])
    assert (hidden.sum(axis=(1, 2)) == 6).all()
    assert (hidden.any(axis=2).sum(axis=1) == 2).all()  # two rows
    assert (hidden.any(axis=0)).all()  # each pixel at some time


@pytest.mark.parametrize("box", [(9, 2), (2, 10), (0, 2)])
def test_a_box_that_does_not_fit(box):
    with pytest.raises(ValueError, match=rf"box is {box[0]}×{box[1]}, but the images are 8×9"):
        draw_corruption(0, 0, (8, 9, 1), box)


def test_digits():
    train, test = (load_images(DataConfig(), split) for split in ("train", "test"))
    assert train.shape == (1437, 8, 8, 1)
    assert test.shape == (360, 8, 8, 1)
    assert train.dtype == np.float32
    assert (train.min(), train.max()) == (0, 1)
    everything = {image.tobytes() for image in train}
    assert not any(image.tobytes() in everything for image in test)


def test_shapes():
    data = DataConfig(images="shapes", shapes=40)
    train, test = (load_images(data, split) for split in ("train", "test"))
    assert train.shape == (40, *image_size(data), 1)
    assert test.shape == (10, 16, 16, 1)
    np.testing.assert_array_equal(train, load_images(data, "train"))
    assert train.min() == 0
    assert train.max() <= 1
    # An ellipse has at least π/4 · 4² pixels, a rectangle at most 9.6²; most pixels are 0 or 1.
    area = train.sum(axis=(1, 2, 3))
    assert area.min() > 12
    assert area.max() < 93
    assert len({image.tobytes() for image in (*train, *test)}) == 50
