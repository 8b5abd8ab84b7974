"""The tasks, and how their problems are read or generated."""

from collections.abc import Callable
from pathlib import Path

from mdeq_jax.reasoning.config import DataConfig
from mdeq_jax.reasoning.data import files, mazes, prefix_sums, sudoku
from mdeq_jax.reasoning.data.problems import Problems, Split


def _prefix_sums(data: DataConfig, split: Split, size: int) -> Problems:
    if data.root is None:
        return prefix_sums.generate(_count(data, split), size, data.seed, split)
    # The published files have no splits: evaluation takes the last strings.
    problems = files.read_prefix_sums(data.root, size)
    first = max(len(problems.inputs) - data.eval_problems, 0)
    rows = slice(min(data.train_problems, first)) if split == "train" else slice(first, None)
    return Problems(*(x[rows] for x in problems))


def _mazes(data: DataConfig, split: Split, size: int) -> Problems:
    count = _count(data, split)
    if data.root is None:
        problems = mazes.generate(count, size, data.seed, data.maze_kind, split)
    else:
        problems = files.read_mazes(data.root, split, size, count)
    return mazes.to_cells(problems) if data.maze_resolution == "cells" else problems


def _sudoku(data: DataConfig, split: Split, size: int) -> Problems:
    count = _count(data, split)
    if data.root is None:
        return sudoku.generate(count, size, data.seed, data.givens, split)
    return sudoku.read_csv(Path(data.root) / f"{split}.csv", count)


def _count(data: DataConfig, split: Split) -> int:
    return data.train_problems if split == "train" else data.eval_problems


# Each reads or generates the problems of a split and a size, and raises ValueError.
TASKS: dict[str, Callable[[DataConfig, Split, int], Problems]] = {
    "prefix_sums": _prefix_sums,
    "mazes": _mazes,
    "sudoku": _sudoku,
}
