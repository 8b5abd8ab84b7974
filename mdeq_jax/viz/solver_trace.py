"""The residual of a solve against its steps."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator

from mdeq_jax.viz.style import BLUE, ORANGE, finish, new_figure, save


def plot_solver_traces(
    forward: Float[np.ndarray, "forward_steps B"],
    backward: Float[np.ndarray, "backward_steps B"],
    path: Path,
) -> None:
    """Draw the median residual of a batch, and the band of its 10th to 90th percentile.

    Args:
      forward: residuals of the equilibrium; row k is after step k+1.
      backward: residuals of the adjoint equation relative to the incoming gradient; row k is after
        step k+1.
      path: path of the picture to write.
    """
    figure = new_figure(6.8, 4.2)
    axes = figure.subplots()
    for name, trace, colour in (("forward", forward, BLUE), ("backward", backward, ORANGE)):
        steps = np.arange(1, len(trace) + 1)
        low, median, high = np.percentile(trace, (10, 50, 90), axis=1)
        axes.semilogy(steps, median, color=colour, label=f"{name}, median")
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = "Residual of each image against solver steps (band: 10 to 90 %)"
    finish(axes, title, x="solver steps", y="residual")
    axes.legend()
    save(figure, path)
