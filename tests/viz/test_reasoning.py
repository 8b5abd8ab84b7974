"""Pictures of equilibrium reasoning: that they show the numbers that they are given."""

import numpy as np
import pytest
from PIL import Image

from mdeq_jax.reasoning.voting import Stability
from mdeq_jax.viz import reasoning
from mdeq_jax.viz.reasoning import (
    plot_accuracy_against_steps,
    plot_alignment_against_accuracy,
    plot_forming_path,
    plot_voting,
    rank_correlation,
)

STEPS = np.array([1, 4, 16])
ALIGNMENT, ACCURACY = np.array([0.2, 0.9, 0.8, 1.0]), np.array([0.1, 0.9, 0.5, 1.0])


@pytest.fixture
def figures(monkeypatch):
    """What is written, in place of files."""
    written = []
    monkeypatch.setattr(reasoning, "save", lambda figure, path: written.append(figure))
    return written


def lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_one_line_per_size(figures):
    accuracy = {f"{size}×{size}": np.array([0.0, 0.5, 1.0]) / size for size in range(9, 25)}
    plot_accuracy_against_steps(STEPS, accuracy, None)
    (axes,) = figures[0].axes
    assert lines(axes) == {name: list(values) for name, values in accuracy.items()}
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == len(accuracy)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "16"]


def test_one_point_per_setting_and_their_correlation(figures):
    plot_alignment_against_accuracy(
        ALIGNMENT, ACCURACY, None, title="4 models", kinds=["a", "b", "a", "b"]
    )
    (axes,) = figures[0].axes
    first, second = (points.get_offsets() for points in axes.collections)
    np.testing.assert_allclose(first, [[0.2, 0.1], [0.8, 0.5]])
    np.testing.assert_allclose(second, [[0.9, 0.9], [1.0, 1.0]])
    assert axes.get_title() == "4 models, rank correlation 1.00"


def test_rank_correlations():
    assert rank_correlation(ALIGNMENT, -(ACCURACY**3)) == -1
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5 of sums of squares 4.5 and 5.
    tied = rank_correlation(np.array([0, 1, 1, 2]), np.arange(4))
    np.testing.assert_allclose(tied, 4.5 / np.sqrt(4.5 * 5))
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3)))


def test_the_path_is_drawn_over_corridors_and_not_over_its_ends(figures):
    maze = np.ones((4, 4, 3))
    maze[0] = 0  # a wall
    maze[1, 0] = (0, 1, 0)
    maze[1, 3] = (1, 0, 0)
    solution = np.zeros((4, 4), bool)
    solution[1] = True
    predicted = np.stack([np.zeros((4, 4), bool), solution])
    plot_forming_path(maze, predicted, [1, 30], solution, None)
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["maze", "1 step\n4 pixels wrong", "30 steps\n0 pixels wrong", "solution"]
    given, before, after, right = (
        np.asarray(axes.images[0].get_array()) for axes in figures[0].axes
    )
    np.testing.assert_array_equal(before, given)
    np.testing.assert_array_equal(after, right)
    changed = (given != after).any(-1)
    np.testing.assert_array_equal(np.argwhere(changed), [[1, 1], [1, 2]])


def test_voting_has_a_panel_for_trials_and_one_for_sources(figures):
    trials, sources = np.array([0, 1, 10]), np.array([1, 3])
    by_trials = Stability(*np.linspace(0.5, 0.9, 12).reshape(4, 3))
    by_sources = Stability(*np.linspace(0.6, 0.9, 8).reshape(4, 2))
    plot_voting(trials, by_trials, sources, by_sources, None)
    for axes, found in zip(figures[0].axes, (by_trials, by_sources), strict=True):
        names = ("believed", "actual", "optimal")
        assert lines(axes) == {name: list(getattr(found, name)) for name in names}


def test_a_file_is_written(tmp_path):
    maze = np.ones((8, 8, 3))
    path = tmp_path / "deep" / "maze.png"
    plot_forming_path(maze, np.ones((3, 8, 8), bool), [1, 2, 3], np.ones((8, 8), bool), path)
    with Image.open(path) as picture:
        assert picture.width > picture.height > 200
