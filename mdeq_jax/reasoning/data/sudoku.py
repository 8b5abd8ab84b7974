"""Sudoku of side 4 and 9 with exactly one solution.

The rules are clauses over variables "cell i holds digit d", and a SAT solver (python-sat) answers
what is possible under them. The problems depend on these answers alone, which are yes or no, and
not on the solution that the solver happens to find.
"""

import csv
import functools
import itertools
import math
import os
import random
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mdeq_jax.checks import needs_extra, require_one_of, require_whole
from mdeq_jax.reasoning.data.problems import Problems, Split, draw_distinct, split_of

# Fewest digits that determine a Sudoku. Source: McGuire, Tugemann, Civario, "There is no 16-Clue
# Sudoku", Experimental Mathematics 2014; for side 4 by enumeration.
FEWEST_GIVENS = {4: 4, 9: 17}
_COLUMNS = ["source", "question", "answer", "rating"]


def generate(
    count: int, side: int, seed: int, givens: int | None = None, split: Split = "train"
) -> Problems:
    """Return distinct Sudoku puzzles, each with exactly one solution.

    A random solved grid loses its digits in random order, each if the solution stays unique.

    Args:
      count: the number N of puzzles.
      side: 4 or 9.
      seed: at least 0; it determines the puzzles.
      givens: number of digits at which the removal stops, from 4 (side 4) or 17 (side 9) to
        side² − 1. A puzzle keeps more where every digit is needed earlier, which for side 9 happens
        at 21 to 27 digits. By default the removal goes on until every digit is needed.
      split: "train" or "test"; no puzzle belongs to both.

    Returns:
      Inputs (N, side, side, side + 1), one-hot, with entry 0 for a blank; targets
      (N, side, side), digit − 1; every position is counted.

    Raises:
      ValueError: an argument is out of range, or there are fewer distinct puzzles.

    Examples:
      >>> generate(count=2, side=4, seed=0).inputs.shape
      (2, 4, 4, 5)
    """
    require_one_of("side", side, tuple(FEWEST_GIVENS))
    fewest = FEWEST_GIVENS[side]
    givens = fewest if givens is None else givens
    require_whole(f"givens of a Sudoku of side {side}", givens, fewest, side**2 - 1)
    solver, excluded_by = _rules(side)
    with solver:
        draw = functools.partial(_draw, solver, excluded_by, side, givens, split)
        return as_problems(*draw_distinct(draw, count, seed, split))


def read_csv(path: str | os.PathLike[str], count: int | None = None) -> Problems:
    """Return the puzzles of a file in the layout of Sudoku-Extreme.

    Its columns are source, question, answer and rating; question and answer are 81 digits row by
    row, with "." for a blank.

    Args:
      path: the file, such as `train.csv` of the data set sapientinc/sudoku-extreme.
      count: number of puzzles from the file's beginning; by default all. A puzzle takes 3.6 kB of
        memory, so the 3.8 million puzzles of `train.csv` take 14 GB.

    Returns:
      Inputs (N, 9, 9, 10), one-hot, with entry 0 for a blank; targets (N, 9, 9), digit − 1; every
      position is counted.

    Raises:
      ValueError: the file cannot be read, has another layout, or fewer puzzles than `count`.
    """
    if count is not None:
        require_whole("count", count, 1)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if header != _COLUMNS:
                raise ValueError(f"its columns are {header}; expected {_COLUMNS}.")
            pairs = [
                _parse(row, number) for number, row in enumerate(itertools.islice(rows, count), 2)
            ]
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{os.fspath(path)}: {reason}") from None
    if not pairs or len(pairs) < (count or 0):
        raise ValueError(
            f"{os.fspath(path)}: it holds {len(pairs)} puzzles; expected {count or 1}."
        )
    digits = np.array(pairs, "S81").view(np.uint8).reshape(-1, 2, 9, 9)
    digits = np.where(digits == ord("."), 0, digits - ord("0"))
    return as_problems(digits[:, 0], digits[:, 1])


def as_problems(
    puzzles: UInt8[np.ndarray, "N side side"], solutions: UInt8[np.ndarray, "N side side"]
) -> Problems:
    """Return puzzles, with 0 for a blank, and their solutions, with digits from 1, as problems."""
    inputs = np.eye(puzzles.shape[-1] + 1, dtype=np.float32)[puzzles]
    targets = solutions.astype(np.int32) - 1
    return Problems(inputs, targets, np.ones(targets.shape, bool))


def _parse(row: list[str], line: int) -> tuple[str, str]:
    """Return question and answer of a row; raises ValueError naming the line."""
    question, answer = row[1:3] if len(row) == len(_COLUMNS) else ("", "")
    complete = len(question) == len(answer) == 81 and set(answer) <= set("123456789")
    if not complete or any(q not in (".", a) for q, a in zip(question, answer, strict=True)):
        raise ValueError(
            f"line {line} is {','.join(row)[:80]!r}; expected source, question, answer and rating, "
            'with a question of 81 digits or "." and an answer of 81 digits that agrees with it.'
        )
    return question, answer


def _draw(
    solver: Any,
    excluded_by: dict[int, set[int]],
    side: int,
    givens: int,
    split: Split,
    rng: random.Random,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a puzzle, nearly always of the split, with 0 for a blank, and its solution."""
    solved: list[int] = []
    excluded: set[int] = set()
    for cell in rng.sample(range(side**2), side**2):
        digits = rng.sample(range(1, side + 1), side)
        free = (v for digit in digits if (v := cell * side + digit) not in excluded)
        solved.append(next(v for v in free if solver.solve(assumptions=[*solved, v])))
        excluded |= excluded_by[solved[-1]]
    kept = solved
    for variable in rng.sample(solved, len(solved)):
        rest = [other for other in kept if other != variable]
        # The others determine a digit if no other is possible in its cell.
        if len(kept) > givens and not solver.solve(assumptions=[*rest, -variable]):
            kept = rest
    puzzle, solution = _grid(side, kept), _grid(side, solved)
    # An exchange of digits brings a puzzle into the split at less cost than drawing another.
    for _ in range(8):
        if split_of(puzzle) == split:
            break
        digits = np.array([0, *rng.sample(range(1, side + 1), side)], np.uint8)
        puzzle, solution = digits[puzzle], digits[solution]
    return puzzle, solution


def _grid(side: int, variables: list[int]) -> UInt8[np.ndarray, "side side"]:
    grid = np.zeros(side**2, np.uint8)
    cells, digits = np.divmod(np.array(variables) - 1, side)
    grid[cells] = digits + 1
    return grid.reshape(side, side)


def _rules(side: int) -> tuple[Any, dict[int, set[int]]]:
    """Return a solver that knows the rules, and the variables that each variable excludes.

    Variable i·side + d says that cell i holds digit d. Every group has exactly one true variable:
    the digits of a cell, and the places of a digit in a row, in a column and in a box.
    """
    with needs_extra("reasoning"):
        from pysat.solvers import Solver  # only Sudoku needs it

    box = math.isqrt(side)
    variables = np.arange(1, side**3 + 1).reshape(side, side, side)  # row, column, digit
    boxes = variables.reshape(box, box, box, box, side).transpose(0, 2, 4, 1, 3)
    views = (variables, variables.transpose(0, 2, 1), variables.transpose(1, 2, 0), boxes)
    groups = np.concatenate([view.reshape(-1, side) for view in views]).tolist()
    excluded_by: dict[int, set[int]] = {variable: set() for variable in variables.ravel().tolist()}
    for group in groups:
        for variable in group:
            excluded_by[variable] |= set(group) - {variable}
    pairs = ([-a, -b] for a, others in excluded_by.items() for b in others)
    return Solver(name="cadical153", bootstrap_with=[*groups, *pairs]), excluded_by
