"""A comparison of settings: accuracies, accuracy against latency, gradients against their cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes

from mdeq_jax.viz.style import BLUE, GREEN, ORANGE, new_figure, save

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
      path: of the PNG to write.
    """
    height = max(6.0, 1.5 + _ROW_HEIGHT * len(accuracies))
    figure = new_figure(13, height)
    panels = figure.subplot_mosaic([["settings", "latency"], ["settings", "gradients"]])
    _draw_accuracies(panels["settings"], accuracies)
    _draw_latency(panels["latency"], latency)
    _draw_gradients(panels["gradients"], gradients)
    save(figure, path)


def _draw_accuracies(axes: Axes, accuracies: Sequence[tuple[str, str, float]]) -> None:
    groups = list(dict.fromkeys(group for group, _, _ in accuracies))
    for row, (group, _, accuracy) in enumerate(accuracies):
        # Neighbouring groups alternate.
        colour = (BLUE, ORANGE)[groups.index(group) % 2]
        error = max(100 * (1 - accuracy), _LEAST_ERROR)
        axes.plot(error, row, marker="o", color=colour)
        label = f"{100 * accuracy:.2f}"
        axes.annotate(label, (error, row), (6, -3), textcoords="offset points", fontsize=8)
    names = [name if group == name else f"{group}: {name}" for group, name, _ in accuracies]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    # By errors on a logarithmic axis, settings near 100 % are told apart beside one that fails.
    axes.set_xscale("log")
    axes.set_xlim(right=200)
    axes.grid(alpha=0.3)
    axes.set(xlabel="test error, % (number: accuracy)", title="Error of each setting")


def _draw_latency(axes: Axes, latency: Mapping[str, Sequence[Point]]) -> None:
    styles = ((BLUE, "o", 5), (ORANGE, "s", -11))
    for (name, points), (colour, marker, above) in zip(latency.items(), styles, strict=True):
        seconds = [1e3 * point.seconds for point in points]
        values = [100 * point.value for point in points]
        axes.plot(seconds, values, marker=marker, color=colour, label=name, linewidth=1)
        _label(axes, points, scale=100, above=above)
    axes.set(xlabel="inference, ms per batch", ylabel="test accuracy, %", xscale="log")
    axes.set_title("What stopping early costs the base's model")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_gradients(axes: Axes, gradients: Sequence[Point]) -> None:
    seconds = [1e3 * point.seconds for point in gradients]
    axes.scatter(seconds, [point.value for point in gradients], color=GREEN)
    _label(axes, gradients, scale=1, above=5)
    axes.set(xlabel="backward, ms per batch", ylabel="cosine with the exact gradient, cell")
    axes.set_title("Gradients: quality against cost, each on its own trained model")
    axes.grid(alpha=0.3)


def _label(axes: Axes, points: Sequence[Point], scale: float, above: float) -> None:
    for point in points:
        where = (1e3 * point.seconds, scale * point.value)
        axes.annotate(point.label, where, (3, above), textcoords="offset points", fontsize=7)
