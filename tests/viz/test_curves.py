"""Curves of a training run from its metrics.jsonl."""

import json

import pytest

from mdeq_jax.viz import curves
from mdeq_jax.viz.curves import plot_curves, read_metrics


def line(step, phase, adjoint_steps):
    values = {"loss": 1 / step, "accuracy": 0.5, "solver_steps": 4.0, "residual": 0.1}
    values |= {"adjoint_steps": adjoint_steps, "adjoint_residual": adjoint_steps / 100}
    return {"step": step, "train/phase": phase} | {f"train/{k}": v for k, v in values.items()}


LINES = [
    line(10, "unrolled", 0.0),
    line(20, "unrolled", 0.0),
    {"step": 20, "eval/accuracy": 0.6, "eval/loss": 0.2, "eval/solver_steps": 5.0},
    line(30, "solve", 7.0),
    {"step": 30, "eval/accuracy": 0.7, "eval/loss": None, "eval/iou/sky": 0.9},
]


@pytest.fixture
def panels(monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save", lambda figure, path: figures.append(figure))
    plot_curves(LINES, None)
    return {axes.get_title(): axes for axes in figures[0].axes}


def points(axes):
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_each_panel_shows_its_metrics(panels):
    # A loss that was not finite is null in the file, and no point.
    assert points(panels["Loss"])["evaluation"] == [(20, 0.2)]
    assert points(panels["Loss"])["training"][0] == (10, 0.1)
    scores = points(panels["Scores"])
    assert scores["accuracy, evaluation"] == [(20, 0.6), (30, 0.7)]
    assert set(scores) == {"accuracy, training", "accuracy, evaluation"}


def test_steps_of_a_solve_that_did_not_take_place_are_left_out(panels):
    assert points(panels["Solver steps"])["backward, training"] == [(30, 7)]
    assert points(panels["Residuals"])["backward, training"] == [(30, 0.07)]


def test_the_unrolled_phase_is_shaded(panels):
    for axes in panels.values():
        (span,) = axes.patches
        assert span.get_x() + span.get_width() == 20


def test_reading_and_writing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError, match="there is no "):
        read_metrics(path)
    path.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        read_metrics(path)
    path.write_text("\n".join(map(json.dumps, LINES)))
    plot_curves(read_metrics(path), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
