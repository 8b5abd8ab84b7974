"""What all pictures share: colours, and how a figure is made and written."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours of Okabe and Ito. Colour-blind readers tell them apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY = "#E69F00", "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY)
# Its brightness rises from end to end, and it looks the same to colour-blind readers.
COLOUR_MAP = "cividis"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure on white.

    Args:
      width: width in inches.
      height: height in inches.
    """
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def finish(axes: Axes, title: str, x: str, y: str) -> None:
    """Give axes a title, labels and a light grid."""
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as an image file.

    Raises:
      ValueError: the suffix of the path names no format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
