"""The curves of a training run, from its metrics.jsonl."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mdeq_jax.viz.style import COLOURS, finish, new_figure, save

Lines = Sequence[Mapping[str, Any]]
_STEPS = {
    "train/solver_steps": "forward, training",
    "train/adjoint_steps": "backward, training",
    "eval/solver_steps": "forward, evaluation",
}
_RESIDUALS = {
    "train/residual": "forward, training",
    "train/adjoint_residual": "backward, training",
    "eval/residual": "forward, evaluation",
}
_SCORES = ("accuracy", "miou")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl.

    Raises:
      ValueError: there is no such file, or it is empty.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}; name the --workdir of a training run.")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if not lines:
        raise ValueError(f"{path} is empty; let the run take its first steps.")
    return lines


def plot_curves(lines: Lines, path: Path) -> None:
    """Draw loss, scores, solver steps and residuals against training steps.

    Args:
      lines: lines of a metrics.jsonl.
      path: path of the picture to write.
    """
    figure = new_figure(11, 6.5)
    panels = figure.subplots(2, 2, sharex=True)
    losses = {"train/loss": "training", "eval/loss": "evaluation"}
    _draw(panels[0, 0], lines, losses, "Loss", "cross-entropy")
    _draw(panels[0, 1], lines, _scores(lines), "Scores", "share of images or pixels")
    _draw(panels[1, 0], lines, _STEPS, "Solver steps", "steps of a solve")
    _draw(panels[1, 1], lines, _RESIDUALS, "Residuals", "residual where a solve ends")
    for axes in (panels[0, 0], panels[1, 1]):
        axes.set_yscale("log")
    panels[0, 1].yaxis.set_major_formatter(PercentFormatter(1))
    save(figure, path)


def _scores(lines: Lines) -> dict[str, str]:
    keys = dict.fromkeys(key for line in lines for key in line)
    kinds = {"train": "training", "eval": "evaluation"}
    return {
        key: f"{key.split('/')[1].replace('_', ' ')}, {kinds[key.split('/')[0]]}"
        for key in keys
        if key.endswith(_SCORES) and key.count("/") == 1
    }


def _draw(axes: Axes, lines: Lines, names: Mapping[str, str], title: str, unit: str) -> None:
    for colour, (key, label) in zip(COLOURS, names.items(), strict=False):
        steps, values = _series(lines, key)
        if len(steps):
            # Evaluations are few, so markers show where they are.
            marker = "o" if key.startswith("eval/") else None
            axes.plot(steps, values, color=colour, marker=marker, markersize=4, label=label)
    unrolled = [line["step"] for line in lines if line.get("train/phase") == "unrolled"]
    if unrolled:
        axes.axvspan(0, unrolled[-1], color="0.93", zorder=0, label="unrolled")
    finish(axes, title, x="training steps", y=unit)
    axes.legend(fontsize="small")


def _series(lines: Lines, key: str) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the steps and values of a metric, without the zeros of unrolled steps."""
    points = [(line["step"], line[key]) for line in lines if line.get(key)]
    steps, values = np.array(points, float).reshape(-1, 2).T
    return steps, values
