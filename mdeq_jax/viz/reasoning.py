"""Pictures of equilibrium reasoning: accuracy, alignment, a path as it forms, and voting."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from scipy.stats import spearmanr

from mdeq_jax.reasoning.voting import Stability
from mdeq_jax.viz.style import BLUE, COLOURS, GREEN, ORANGE, finish, new_figure, save

_MARKERS = "os^D"
_PATH_COLOUR = (0.0, 0.45, 0.70)
# Believed and actual accuracy coincide if the trust is unbiased, so the thin line is drawn last.
_VOTES = (("optimal", GREEN, 1.5), ("actual", BLUE, 4), ("believed", ORANGE, 1.5))


def plot_accuracy_against_steps(
    steps: Int[np.ndarray, " points"],
    accuracy: Mapping[str, Float[np.ndarray, " points"]],
    path: Path,
) -> None:
    """Draw the share of right answers against solver steps, one line per size.

    Args:
      steps: numbers of steps, at least 1.
      accuracy: for the name of each size, such as "13×13", the share of right answers after each
        number of steps.
      path: path of the picture to write.
    """
    figure = new_figure(6.8, 4.2)
    axes = figure.subplots()
    # More sizes than colours are told apart by their markers.
    for number, (name, values) in enumerate(accuracy.items()):
        marker = "os^D"[number // len(COLOURS) % 4]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(steps, values, marker=marker, markersize=4, color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(step) for step in steps])
    _share(axes)
    finish(axes, "Accuracy against solver steps", x="solver steps", y="answers that are right")
    axes.legend(title="size", fontsize="small")
    save(figure, path)


def plot_alignment_against_accuracy(
    alignment: Float[np.ndarray, " points"],
    accuracy: Float[np.ndarray, " points"],
    path: Path,
    *,
    title: str,
    kinds: Sequence[str] | None = None,
) -> None:
    """Draw alignment scores against accuracies, with the rank correlation in the title.

    Args:
      alignment: alignment score of each point.
      accuracy: share of right answers of each point.
      path: path of the picture to write.
      title: what the points are.
      kinds: name of each point's kind; points of one kind have one colour and one marker.
    """
    figure = new_figure(6, 4.5)
    axes = figure.subplots()
    kinds = ["points"] * len(alignment) if kinds is None else kinds
    styles = itertools.product(_MARKERS, COLOURS)
    for (marker, colour), kind in zip(itertools.cycle(styles), dict.fromkeys(kinds), strict=False):
        chosen = np.array([other == kind for other in kinds])
        style = {"color": colour, "marker": marker, "alpha": 0.8}
        axes.scatter(alignment[chosen], accuracy[chosen], label=kind, **style)
    _share(axes)
    correlation = rank_correlation(alignment, accuracy)
    title = f"{title}, rank correlation {correlation:.2f}"
    finish(axes, title, x="alignment score", y="answers that are right")
    if len({*kinds}) > 1:
        axes.legend(fontsize="small")
    save(figure, path)


def rank_correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Return Spearman's rank correlation; NaN where one of the two does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    result: Any = spearmanr(a, b)
    return float(result.statistic)


def plot_forming_path(
    maze: Float[np.ndarray, "H W 3"],
    predicted: Bool[np.ndarray, "pictures H W"],
    steps: Sequence[int],
    solution: Bool[np.ndarray, "H W"],
    path: Path,
) -> None:
    """Draw a maze, its predicted path after several numbers of steps, and its solution, in a row.

    Args:
      maze: the maze as an image with values in [0, 1].
      predicted: whether each pixel is predicted to be on the path, after each number of steps.
      steps: the numbers of steps.
      solution: whether each pixel is on the path.
      path: path of the picture to write.
    """
    figure = new_figure(1.8 * (len(predicted) + 2), 2.2)
    panels = figure.subplots(1, len(predicted) + 2)
    _show(panels[0], maze, "maze")
    for axes, on_path, step in zip(panels[1:], predicted, steps, strict=False):
        wrong = int((on_path != solution).sum())
        _show(axes, _with_path(maze, on_path), f"{_count(step, 'step')}\n{wrong} pixels wrong")
    _show(panels[-1], _with_path(maze, solution), "solution")
    save(figure, path)


def plot_voting(
    trials: Int[np.ndarray, " points"],
    by_trials: Stability,
    sources: Int[np.ndarray, " counts"],
    by_sources: Stability,
    path: Path,
) -> None:
    """Draw the believed, actual and optimal accuracy of a vote against trials and sources.

    Args:
      trials: numbers of trials of each source.
      by_trials: for each number of trials, the accuracies of a vote: arrays (points,).
      sources: numbers of sources.
      by_sources: for each number of sources, the accuracies of a vote: arrays (counts,).
      path: path of the picture to write.
    """
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_votes(left, trials, by_trials, "Trials of each source", "trials")
    left.set_xscale("symlog", linthresh=1)
    left.set_xticks(trials, [str(count) for count in trials])
    _draw_votes(right, sources, by_sources, "Sources", "sources")
    right.set_xticks(sources)
    save(figure, path)


def _draw_votes(
    axes: Axes, counts: Int[np.ndarray, " n"], found: Stability, title: str, unit: str
) -> None:
    for name, colour, width in _VOTES:
        values = getattr(found, name)
        axes.plot(counts, values, marker=".", linewidth=width, color=colour, label=name)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    finish(axes, title, x=unit, y="votes that are right")
    axes.legend(fontsize="small")


def _share(axes: Axes) -> None:
    """Let the y axis show shares from 0 to 100 %."""
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _with_path(
    maze: Float[np.ndarray, "H W 3"], on_path: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W 3"]:
    """Return the maze with the path drawn over all but start and end, which are coloured."""
    is_end = np.ptp(maze, axis=-1) > 0
    drawn = on_path.astype(bool) & ~is_end
    return np.where(drawn[..., None], _PATH_COLOUR, maze)


def _show(axes: Axes, pixels: Float[np.ndarray, "H W 3"], title: str) -> None:
    axes.imshow(pixels)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
