"""The tasks: the shape of their problems, and how these are read or generated."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mdeq_jax.reasoning.config import DataConfig
from mdeq_jax.reasoning.data import files, mazes, prefix_sums, sudoku
from mdeq_jax.reasoning.data.problems import Problems, Split


class Shape(NamedTuple):
    """What a model has to fit.

    Attributes:
      grid: height and width of the grid of positions.
      channels: number of channels of the inputs.
      classes: number of classes of a position.
    """

    grid: tuple[int, int]
    channels: int
    classes: int


class Task(NamedTuple):
    """A kind of problem.

    Attributes:
      shape: returns the shape of the problems of a size.
      open: reads or generates the problems of a split and a size; raises ValueError.
    """

    shape: Callable[[DataConfig, int], Shape]
    open: Callable[[DataConfig, Split, int], Problems]


def open_problems(data: DataConfig, split: Split, size: int) -> Problems:
    """Return the problems of a split and a size.

    Args:
      data: the section ``data`` of the config.
      split: "train" or "test".
      size: size of the problems.

    Raises:
      ValueError: the size does not fit the task, or the problems cannot be read.
    """
    try:
        return TASKS[data.task].open(data, split, size)
    except ValueError as error:
        key = "data.size" if split == "train" else "evaluation.sizes"
        count = f"config.data.{'train' if split == 'train' else 'eval'}_problems"
        raise ValueError(
            f"config.data.task is {data.task!r} and config.{key} has {size}: {error} ({count} is "
            f"{_count(data, split)}.)"
        ) from None


def _prefix_sums(data: DataConfig, split: Split, size: int) -> Problems:
    count = _count(data, split)
    if data.root is None:
        return prefix_sums.generate(count, size, data.seed, split)
    problems = files.read_prefix_sums(data.root, size)
    first = len(problems.inputs) * 4 // 5
    of_split = slice(first) if split == "train" else slice(first, None)
    rows = Problems(*(x[of_split] for x in problems))
    if len(rows.inputs) < count:
        raise ValueError(f"the file has {len(rows.inputs)} strings for this split.")
    return Problems(*(x[:count] for x in rows))


def _mazes(data: DataConfig, split: Split, size: int) -> Problems:
    count = _count(data, split)
    if data.root is None:
        problems = mazes.generate(count, size, data.seed, data.maze_kind, split)
    else:
        problems = files.read_mazes(data.root, split, size, count)
    return mazes.to_cells(problems) if data.maze_resolution == "cells" else problems


def _maze_shape(data: DataConfig, size: int) -> Shape:
    side = 2 * size + 6 if data.maze_resolution == "pixels" else size + 2
    return Shape((side, side), 3, 2)


def _sudoku(data: DataConfig, split: Split, size: int) -> Problems:
    count = _count(data, split)
    if data.root is None:
        return sudoku.generate(count, size, data.seed, data.givens, split)
    if size != 9:
        raise ValueError("published puzzles have side 9; set the size to 9, or root to None.")
    return sudoku.read_csv(Path(data.root) / f"{split}.csv", count)


def _count(data: DataConfig, split: Split) -> int:
    return data.train_problems if split == "train" else data.eval_problems


TASKS = {
    "prefix_sums": Task(lambda _, size: Shape((1, size), 1, 2), _prefix_sums),
    "mazes": Task(_maze_shape, _mazes),
    "sudoku": Task(lambda _, size: Shape((size, size), size + 1, size), _sudoku),
}
