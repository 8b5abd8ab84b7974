"""The figure of a comparison: errors, accuracy against latency, gradients against their cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes

from mdeq_jax.viz.style import BLUE, GREEN, ORANGE, finish, new_figure, save

_ROW_HEIGHT = 0.24
_LEAST_ERROR = 0.01


class Point(NamedTuple):
    """A row of the report.

    Attributes:
      group: group of the row.
      name: name of the row.
      accuracy: accuracy on the test set, percent.
      ms: milliseconds of a training step, or of an evaluation batch in the group "latency"; None is
        unknown.
      cosine: cosine between the cell's gradient and the exact gradient; None is unknown.
    """

    group: str
    name: str
    accuracy: float
    ms: float | None
    cosine: float | None


def plot_comparison(points: Sequence[Point], path: Path) -> None:
    """Draw the error of each row, accuracy against latency, and gradients against their cost.

    Args:
      points: the rows, in order.
      path: path of the PNG to write.
    """
    figure = new_figure(13, max(6.0, 1.5 + _ROW_HEIGHT * len(points)))
    panels = figure.subplot_mosaic([["errors", "latency"], ["errors", "gradients"]])
    _draw_errors(panels["errors"], [point for point in points if point.group != "latency"])
    title, x = "What stopping early costs the base's model", "evaluation, ms per batch"
    for start, colour, above in (("step limit ", BLUE, 5), ("tolerance ", ORANGE, -11)):
        early = [p for p in points if p.group == "latency" and p.name.startswith(start)]
        xyz = [(p.ms, p.accuracy, p.name.removeprefix(start)) for p in early if p.ms is not None]
        _draw_labelled(panels["latency"], xyz, above, color=colour, marker="o", label=start)
    finish(panels["latency"], title, x, "test accuracy, %")
    panels["latency"].set_xscale("log")
    panels["latency"].legend()
    title, x = "Gradients: quality against cost, each on its own model", "training step, ms"
    gradients = [
        (p.ms, p.cosine, p.name)
        for p in points
        if p.group == "gradients" and p.ms is not None and p.cosine is not None
    ]
    _draw_labelled(panels["gradients"], gradients, 5, color=GREEN, marker="o", linestyle="")
    finish(panels["gradients"], title, x, "cosine with the exact gradient, cell")
    save(figure, path)


def _draw_errors(axes: Axes, points: Sequence[Point]) -> None:
    groups = list(dict.fromkeys(point.group for point in points))
    for row, point in enumerate(points):
        # The colours of neighbouring groups alternate.
        colour = (BLUE, ORANGE)[groups.index(point.group) % 2]
        error = max(100 - point.accuracy, _LEAST_ERROR)
        axes.plot(error, row, marker="o", color=colour)
        place = {"xytext": (6, -3), "textcoords": "offset points"}
        axes.annotate(f"{point.accuracy:.2f}", (error, row), fontsize=8, **place)
    names = [p.name if p.group == p.name else f"{p.group}: {p.name}" for p in points]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    # On a logarithmic axis of errors, settings near 100 % stay apart although one may fail.
    axes.set_xscale("log")
    axes.set_xlim(right=200)
    finish(axes, "Error of each setting", "test error, % (number: accuracy)", "")


def _draw_labelled(
    axes: Axes, points: Sequence[tuple[float, float, str]], above: float, **style: str
) -> None:
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], **style)  # pyright: ignore
    for x, y, name in points:
        axes.annotate(name, (x, y), (3, above), textcoords="offset points", fontsize=7)
