"""Bi-level optimisation: validation loss against time, and the quality of the estimates of H⁻¹."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from mdeq_jax.viz.style import COLOURS, new_figure, save


def plot_bilevel(
    losses: Mapping[str, Float[np.ndarray, "2 steps"]],
    inversions: Mapping[str, Float[np.ndarray, "2 tries"]],
    path: Path,
) -> None:
    """Draw the descent of each method beside the quality of the inverse estimates.

    Args:
      losses: for each method the seconds and the validation loss of each outer step.
      inversions: for each kind of direction, ‖a‖/‖b‖ and 1 − cos(a, b) of each try, where a is the
        estimate of b = H⁻¹ v.
      path: path of the PNG to write.
    """
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    _plot_losses(left, losses)
    _plot_inversions(right, inversions)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save(figure, path)


def _plot_losses(axes: Axes, losses: Mapping[str, Float[np.ndarray, "2 steps"]]) -> None:
    axes.set_prop_cycle(color=COLOURS)
    for name, (seconds, loss) in losses.items():
        axes.plot(seconds * 1e3, loss, marker=".", label=name)
    axes.set(xlabel="milliseconds of solves and hyper-gradients", ylabel="validation loss")
    axes.set_title("Descent of the validation loss (mean of the splits)")


def _plot_inversions(axes: Axes, inversions: Mapping[str, Float[np.ndarray, "2 tries"]]) -> None:
    axes.set_prop_cycle(color=COLOURS)
    for name, (ratio, error) in inversions.items():
        # A cosine of 1 has no place on a logarithmic axis.
        axes.scatter(ratio, np.maximum(error, 1e-16), s=10, label=name)
    axes.set(xlabel="norm of the estimate / true norm", ylabel="1 − cosine", yscale="log")
    axes.set_title("Estimates of H⁻¹ v")
