"""The tasks, and how their problems are read or generated."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from mdeq_jax.reasoning.config import DataConfig
from mdeq_jax.reasoning.data import files, mazes, prefix_sums, sudoku
from mdeq_jax.reasoning.data.problems import Problems, Split


class Task(NamedTuple):
    """A kind of problem.

    Attributes:
      open: reads or generates the problems of a split and a size; raises ValueError.
      dimensions: number of axes that the positions extend over, 1 or 2.
      classes: number of classes of a position for a size.
    """

    open: Callable[[DataConfig, Split, int], Problems]
    dimensions: Literal[1, 2]
    classes: Callable[[int], int]
