"""Colours of labels, and images under them."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from mdeq_jax.vision.predict.label_pictures import overlay, palette


def test_pictures_need_no_data_packages():
    program = (
        "import sys, mdeq_jax.vision.predict.label_pictures\n"
        "assert not {'tensorflow_datasets', 'grain', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("num_classes", "apart"), [(2, 150), (11, 60), (19, 40), (21, 40), (254, 1)]
)
def test_colours_are_told_apart(num_classes, apart):
    colours = palette(num_classes).astype(float)
    assert colours.shape == (num_classes, 3)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)]
    assert min(distances) >= apart


def test_an_overlay_mixes():
    image = np.array([[[100, 0, 200], [10, 20, 30]]], np.uint8)
    colours = np.array([[0, 100, 0], [255, 255, 255]], np.uint8)
    mixed = overlay(image, np.array([[0, 1]]), colours, opacity=0.25)
    np.testing.assert_array_equal(mixed, [[[75, 25, 150], [71, 79, 86]]])
    assert mixed.dtype == np.uint8
    np.testing.assert_array_equal(overlay(image, np.array([[0, 1]]), colours, 0.0), image)
