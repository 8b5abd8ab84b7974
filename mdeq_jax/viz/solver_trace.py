"""The residual of a solve against its steps."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Two of the colours of Okabe and Ito that colour-blind readers tell apart.
_COLOURS = {"forward": "#0072B2", "backward": "#D55E00"}


def plot_solver_traces(
    forward: Float[np.ndarray, "forward_steps B"],
    backward: Float[np.ndarray, "backward_steps B"],
    path: Path,
) -> None:
    """Draw the median residual of a batch, and the band of its 10th to 90th percentile.

    Args:
      forward: residuals of the equilibrium, row k after step k+1.
      backward: likewise of its adjoint equation, relative to the incoming gradient.
      path: of the PNG to write.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for name, trace in (("forward", forward), ("backward", backward)):
        steps = np.arange(1, len(trace) + 1)
        low, median, high = np.percentile(trace, (10, 50, 90), axis=1)
        axes.semilogy(steps, median, color=_COLOURS[name], label=f"{name}, median")
        axes.fill_between(steps, low, high, color=_COLOURS[name], alpha=0.2, linewidth=0)
    axes.set(xlabel="solver steps", ylabel="residual")
    axes.set_title("Residual of each image against solver steps (band: 10 to 90 %)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
