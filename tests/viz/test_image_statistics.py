"""Pictures of one number per image, and where the numbers come from."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mdeq_jax.vision.config import IGNORE
from mdeq_jax.viz import image_statistics as viz
from mdeq_jax.viz.image_statistics import (
    ImageStatistics,
    agreement,
    plot_spectral_radius,
    plot_steps_against_confidence,
)


@pytest.fixture
def statistics():
    return ImageStatistics(
        steps=np.array([3, 5, 5, 9]),
        confidence=np.array([1.0, 0.9, 0.999, 0.4]),
        right=np.array([True, True, True, False]),
        spectral_radius=np.array([0.5, 0.9, 1.0, 1.2]),
    )


def drawn(plot, statistics, monkeypatch):
    """The axes that a plot would write."""
    figures = []
    monkeypatch.setattr(viz, "save", lambda figure, path: figures.append(figure))
    plot(statistics, None)
    return figures[0].axes[0]


def test_right_and_wrong_are_apart(statistics, monkeypatch):
    axes = drawn(plot_steps_against_confidence, statistics, monkeypatch)
    right, wrong = (points.get_offsets() for points in axes.collections)
    np.testing.assert_array_equal(np.round(right[:, 1]), [3, 5, 5])
    np.testing.assert_allclose(right[:, 0], [1.0, 0.9, 0.999], atol=2e-6)
    assert right[:, 0].max() < 1  # a logit axis has no place for 1
    np.testing.assert_allclose(wrong[:, 0], [0.4])
    assert axes.get_xlabel()
    assert axes.get_ylabel() == "solver steps"


def test_every_image_is_in_the_histogram(statistics, monkeypatch):
    axes = drawn(plot_spectral_radius, statistics, monkeypatch)
    assert sum(bar.get_height() for bar in axes.patches) == 4
    median, bound = (line.get_xdata()[0] for line in axes.lines)
    assert (median, bound) == (0.95, 1)


def test_files_are_written(statistics, tmp_path):
    for name, plot in (("a.png", plot_steps_against_confidence), ("b.png", plot_spectral_radius)):
        plot(statistics, tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 800


def test_agreement_of_classes():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]))
    confidence, right = agreement(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(confidence, [0.7, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(right, [True, False])


def test_agreement_of_pixels_leaves_out_what_does_not_count():
    logits = jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])).reshape(1, 1, 3, 2)
    labels = jnp.array([0, 1, 1]).reshape(1, 1, 3)
    confidence, right = agreement(logits, labels)
    np.testing.assert_allclose(confidence, (0.9 + 0.6 + 0.8) / 3, rtol=1e-6)
    assert right.all()
    confidence, right = agreement(logits, labels.at[0, 0, 2].set(IGNORE))
    np.testing.assert_allclose(confidence, (0.9 + 0.6) / 2, rtol=1e-6)
    assert not right.any()
