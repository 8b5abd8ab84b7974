"""Tasks of a few points: they have the shapes, the ranges and the classes that they should."""

import numpy as np
import pytest

from mdeq_jax.images.digits import load_raw
from mdeq_jax.inverse.meta.data import TASKS, draw_example


def draw(task, split="train", seed=0, shots=4, queries=3):
    return draw_example(TASKS[task], np.random.default_rng(seed), split, shots, queries)


def test_support_and_query_points_are_of_one_sinusoid():
    amplitudes, phases = [], []
    for seed in range(40):
        task = draw("sinusoid", seed=seed)
        assert task["support_x"].shape == (4, 1)
        assert task["query_y"].shape == (3, 1)
        # y = a sin(x − φ) is a linear combination of sin x and cos x.
        basis = np.concatenate([np.sin(task["support_x"]), np.cos(task["support_x"])], axis=1)
        (s, c), *_ = np.linalg.lstsq(basis, task["support_y"][:, 0], rcond=None)
        x = task["query_x"]
        np.testing.assert_allclose(s * np.sin(x) + c * np.cos(x), task["query_y"], atol=1e-3)
        amplitudes.append(np.hypot(s, c))
        phases.append(np.arctan2(-c, s))
    assert 0.1 <= min(amplitudes) < 1 < 4 < max(amplitudes) <= 5.01
    assert -1e-2 <= min(phases) < 0.5 < 2.6 < max(phases) <= np.pi + 1e-2


def test_a_seed_determines_a_task():
    first, again, other = (draw("sinusoid", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["support_x"], again["support_x"])
    assert (first["support_x"] != other["support_x"]).all()


@pytest.mark.parametrize(("split", "classes"), [("train", range(5)), ("test", range(5, 10))])
def test_digits_have_all_five_classes_of_their_split(split, classes):
    raw = load_raw()
    labels = {image.tobytes(): y for image, y in zip(raw.images, raw.labels, strict=True)}
    orders = set()
    for seed in range(8):
        task = draw("digits", split, seed)
        found = {}
        for part, count in (("support", 4), ("query", 3)):
            x, y = task[f"{part}_x"], task[f"{part}_y"]
            np.testing.assert_array_equal(y.sum(axis=0), count)
            for image, way in zip(x, y.argmax(axis=-1), strict=True):
                pixels = np.rint(image * 16).astype(np.uint8).tobytes()
                assert found.setdefault(way, labels[pixels]) == labels[pixels]
        assert set(found.values()) == {*classes}
        images = np.concatenate([task["support_x"], task["query_x"]])
        assert len(np.unique(images, axis=0)) == 5 * 7
        orders.add(tuple(found[way] for way in range(5)))
    assert len(orders) > 1  # a class has another number in each task
