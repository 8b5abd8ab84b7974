"""What a model is given of an image."""

import numpy as np
import pytest

from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import find_dataset
from mdeq_jax.vision.predict.images import model_input

CITYSCAPES = find_dataset(DataConfig(name="cityscapes"))


def test_segmentation_sees_the_image_at_its_size():
    image = np.zeros((5, 7, 3), np.uint8)
    image[2, 3] = (255, 128, 0)
    pixels = model_input(image, "segmentation", CITYSCAPES)
    assert pixels.shape == (5, 7, 3)
    assert pixels.dtype == np.float32
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(pixels[2, 3], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("digits", (8, 8), (3 / 16 - 0.3) / 0.38),  # its greys are sixteenths
        ("cifar10", (32, 32), (0.2 - 0.4914) / 0.2023),
        ("imagenet2012", (64, 64), (0.2 - 0.485) / 0.229),
        ("digit_scenes", (64, 64), (0.2 - 0.485) / 0.229),
    ],
)
def test_a_classifier_sees_the_pixels_that_it_was_trained_on(name, size, expected):
    image = np.full((90, 70, 3), 51, np.uint8)
    dataset = find_dataset(DataConfig(name=name, image_size=size))
    pixels = model_input(image, "classification", dataset)
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[..., 0], expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (40, 64), (65, 16), (3, 5)])
def test_a_classifier_sees_the_middle_at_its_own_size(shape):
    """The digit fills the middle square; what lies beside it is not seen."""
    side = min(shape)
    top, left = ((n - side) // 2 for n in shape)
    image = np.full((*shape, 3), 255, np.uint8)
    image[top : top + side, left : left + side] = 51
    pixels = model_input(image, "classification", find_dataset(DataConfig()))
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, (3 / 16 - 0.3) / 0.38, rtol=1e-5)
