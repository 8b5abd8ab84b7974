"""A comparison of settings: errors, accuracy against latency, gradients against their cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes

from mdeq_jax.viz.style import BLUE, GREEN, ORANGE, finish, new_figure, save

_ROW_HEIGHT = 0.24
_LEAST_ERROR = 0.01


class Point(NamedTuple):
    """A labelled point: seconds against a value."""

    label: str
    seconds: float
    value: float


def plot_comparison(
    accuracies: Sequence[tuple[str, str, float]],
    latency: Mapping[str, Sequence[Point]],
    gradients: Sequence[Point],
    path: Path,
) -> None:
    """Draw three panels: error of each setting, latency, gradients.

    Args:
      accuracies: group, setting and accuracy in [0, 1], in order.
      latency: seconds of a batch and accuracy, for two ways of stopping the solver early.
      gradients: seconds of the backward pass and cosine with the exact gradient.
      path: path of the PNG to write.
    """
    figure = new_figure(13, max(6.0, 1.5 + _ROW_HEIGHT * len(accuracies)))
    panels = figure.subplot_mosaic([["settings", "latency"], ["settings", "gradients"]])
    _draw_errors(panels["settings"], accuracies)
    for (name, points), colour, marker, above in zip(
        latency.items(), (BLUE, ORANGE), "os", (5, -11), strict=True
    ):
        _draw_points(panels["latency"], points, 100, above, colour)
        panels["latency"].lines[-1].set(marker=marker, label=name)
    title = "What stopping early costs the base's model"
    finish(panels["latency"], title, x="inference, ms per batch", y="test accuracy, %")
    panels["latency"].set_xscale("log")
    panels["latency"].legend()
    _draw_points(panels["gradients"], gradients, 1, 5, GREEN)
    panels["gradients"].lines[-1].set(marker="o", linestyle="none")
    title = "Gradients: quality against cost, each on its own trained model"
    y = "cosine with the exact gradient, cell"
    finish(panels["gradients"], title, x="backward, ms per batch", y=y)
    save(figure, path)


def _draw_errors(axes: Axes, accuracies: Sequence[tuple[str, str, float]]) -> None:
    groups = list(dict.fromkeys(group for group, _, _ in accuracies))
    for row, (group, _, accuracy) in enumerate(accuracies):
        # The colours of neighbouring groups alternate.
        colour = (BLUE, ORANGE)[groups.index(group) % 2]
        error = max(100 * (1 - accuracy), _LEAST_ERROR)
        axes.plot(error, row, marker="o", color=colour)
        label = f"{100 * accuracy:.2f}"
        axes.annotate(label, (error, row), (6, -3), textcoords="offset points", fontsize=8)
    names = [name if group == name else f"{group}: {name}" for group, name, _ in accuracies]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    # A logarithmic axis tells settings near 100 % apart beside one that fails.
    axes.set_xscale("log")
    axes.set_xlim(right=200)
    finish(axes, "Error of each setting", x="test error, % (number: accuracy)", y="")


def _draw_points(
    axes: Axes, points: Sequence[Point], scale: float, above: float, colour: str
) -> None:
    seconds = [1e3 * point.seconds for point in points]
    values = [scale * point.value for point in points]
    axes.plot(seconds, values, linewidth=1, color=colour)
    for x, y, point in zip(seconds, values, points, strict=True):
        axes.annotate(point.label, (x, y), (3, above), textcoords="offset points", fontsize=7)
