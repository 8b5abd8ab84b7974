"""The confusion matrix and its metrics: a case worked by hand, and counting one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.vision.confusion import confusion_matrix, segmentation_metrics

NAMES = ("road", "sky", "car", "bus")


def test_a_case_worked_by_hand():
    """Bus is neither labelled nor predicted, and car is predicted without being there."""
    labels = jnp.array([[[0, 0, 0, 1], [1, 1, 255, 255]]])
    predictions = jnp.array([[[0, 0, 1, 1], [1, 2, 0, 3]]])
    confusion = np.asarray(confusion_matrix(labels, predictions, 4))
    np.testing.assert_array_equal(
        confusion, [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    )
    metrics = segmentation_metrics(confusion, NAMES)
    assert metrics["iou/road"] == pytest.approx(2 / 3)  # 2 right, 3 labelled, 2 predicted
    assert metrics["iou/sky"] == pytest.approx(2 / 4)
    assert metrics["iou/car"] == 0
    assert np.isnan(metrics["iou/bus"])
    assert metrics["miou"] == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert metrics["pixel_accuracy"] == pytest.approx(4 / 6)
    assert metrics["mean_accuracy"] == pytest.approx(2 / 3)


def reference(labels, predictions, classes):
    """Sets of pixels, class by class."""
    known = labels != 255
    ious, accuracies = [], []
    for k in range(classes):
        is_label, is_predicted = known & (labels == k), known & (predictions == k)
        union = (is_label | is_predicted).sum()
        ious.append((is_label & is_predicted).sum() / union if union else None)
        if is_label.any():
            accuracies.append((is_label & is_predicted).sum() / is_label.sum())
    found = [iou for iou in ious if iou is not None]
    return ious, np.mean(found), (labels == predictions)[known].mean(), np.mean(accuracies)


@pytest.mark.parametrize("seed", range(4))
def test_random_labels_with_ignored_pixels(seed):
    rng = np.random.default_rng(seed)
    classes = 7
    labels = rng.integers(0, classes - 2, size=(3, 16, 12))
    labels[rng.random(labels.shape) < 0.25] = 255
    predictions = rng.integers(0, classes - 1, size=labels.shape)
    confusion = np.asarray(confusion_matrix(jnp.array(labels), jnp.array(predictions), classes))
    assert confusion.sum() == (labels != 255).sum()
    metrics = segmentation_metrics(confusion, [str(k) for k in range(classes)])
    ious, miou, pixel_accuracy, mean_accuracy = reference(labels, predictions, classes)
    for k, iou in enumerate(ious):
        np.testing.assert_allclose(metrics[f"iou/{k}"], np.nan if iou is None else iou)
    np.testing.assert_allclose(metrics["miou"], miou)
    np.testing.assert_allclose(metrics["pixel_accuracy"], pixel_accuracy)
    np.testing.assert_allclose(metrics["mean_accuracy"], mean_accuracy)


def test_counts_beyond_what_single_precision_holds():
    side = 4100  # more than 2^24 pixels, the last of which a float32 sum would lose
    labels = jnp.zeros((1, side, side), jnp.uint8)
    assert confusion_matrix(labels, labels, 2)[0, 0] == side * side > 2**24


def test_bytes_do_not_overflow():
    labels = jnp.full((1, 2, 2), 18, jnp.uint8)
    assert confusion_matrix(labels, labels, 19)[18, 18] == 4


def test_no_pixel_that_counts():
    metrics = segmentation_metrics(np.zeros((4, 4), np.int64), NAMES)
    assert all(np.isnan(value) for value in metrics.values())
