"""Sudoku: every puzzle has exactly one solution; the csv file of Sudoku-Extreme."""

import functools
import itertools

import numpy as np
import pytest

from mdeq_jax.reasoning.data import sudoku


def digits(problems):
    """Puzzles, with 0 for a blank, and solutions."""
    return problems.inputs.argmax(-1), problems.targets + 1


def groups(side):
    """The cells of each row, column and box."""
    box = {4: 2, 9: 3}[side]
    cells = np.arange(side**2).reshape(side, side)
    boxes = [
        cells[r : r + box, c : c + box].ravel()
        for r in range(0, side, box)
        for c in range(0, side, box)
    ]
    return np.stack([*cells, *cells.T, *boxes])


def count_solutions(puzzle):
    """The number of solutions, at most 2, by trying digits in the cell with the fewest left."""
    side = len(puzzle)
    peers = [
        sorted({int(c) for group in groups(side) if cell in group for c in group} - {cell})
        for cell in range(side**2)
    ]
    grid = puzzle.ravel().tolist()

    def search():
        blank = [cell for cell, digit in enumerate(grid) if not digit]
        if not blank:
            return 1
        left = {c: set(range(1, side + 1)) - {grid[p] for p in peers[c]} for c in blank}
        cell = min(blank, key=lambda c: len(left[c]))
        found = 0
        for digit in left[cell]:
            grid[cell] = digit
            found += search()
            if found > 1:
                break
        grid[cell] = 0
        return min(found, 2)

    return search()


@functools.cache
def every_grid_of_side_4():
    rows = np.array(list(itertools.permutations(range(1, 5))), np.uint8)
    grids = rows[np.array(list(itertools.product(range(24), repeat=4)))].reshape(-1, 16)
    # The sum of 2^digit over four cells is 30 only if the digits are 1, 2, 3 and 4.
    return grids[((1 << grids)[:, groups(4)].sum(-1) == 30).all(-1)]


def test_the_brute_force_count_can_fail():
    puzzle = np.zeros((4, 4), int)
    assert count_solutions(puzzle) == 2
    puzzle[0, :2] = 1, 1
    puzzle[1, 0] = 1
    puzzle[0, 2:] = 2, 3
    assert count_solutions(puzzle) == 0


@pytest.mark.parametrize(("side", "count"), [(4, 100), (9, 6)])
def test_a_puzzle_has_one_solution_which_is_given(side, count):
    problems = sudoku.generate(count, side, seed=0)
    assert problems.inputs.shape == (count, side, side, side + 1)
    assert (problems.inputs.dtype, problems.targets.dtype) == (np.float32, np.int32)
    assert (problems.inputs.sum(-1) == 1).all()
    assert problems.counted.all()
    puzzles, solutions = digits(problems)
    assert ((puzzles == solutions) | (puzzles == 0)).all()
    in_groups = np.sort(solutions.reshape(count, -1)[:, groups(side)], axis=-1)
    assert (in_groups == np.arange(1, side + 1)).all()
    assert all(count_solutions(puzzle) == 1 for puzzle in puzzles)


def test_without_givens_no_digit_can_go():
    puzzles, _ = digits(sudoku.generate(20, 4, seed=1))
    for puzzle in puzzles:
        for cell in np.argwhere(puzzle):
            less = puzzle.copy()
            less[tuple(cell)] = 0
            assert count_solutions(less) == 2


@pytest.mark.parametrize(("side", "givens"), [(4, 8), (9, 40)])
def test_givens(side, givens):
    puzzles, _ = digits(sudoku.generate(3, side, seed=0, givens=givens))
    assert (np.count_nonzero(puzzles, axis=(1, 2)) == givens).all()


def test_every_solved_grid_of_side_4_comes_out():
    grids = every_grid_of_side_4()
    assert len(grids) == 288
    _, solutions = digits(sudoku.generate(1800, 4, seed=0, givens=13))
    found = {grid.tobytes() for grid in solutions.reshape(-1, 16)}
    assert found == {grid.astype(np.int32).tobytes() for grid in grids}


def test_fewest_givens_of_side_4():
    grids = every_grid_of_side_4()

    def determine(cells):
        """Whether some digits in the cells fit exactly one grid."""
        return 1 in np.bincount(grids[:, cells] @ 5 ** np.arange(len(cells)))

    fewest = sudoku.FEWEST_GIVENS[4]
    assert not any(determine(cells) for cells in itertools.combinations(range(16), fewest - 1))
    assert any(determine(cells) for cells in itertools.combinations(range(16), fewest))


def test_train_and_test_share_no_puzzle():
    puzzles = {
        split: {p.tobytes() for p in sudoku.generate(500, 4, seed=0, split=split).inputs}
        for split in ("train", "test")
    }
    assert len(puzzles["train"]) == len(puzzles["test"]) == 500
    assert not puzzles["train"] & puzzles["test"]


def test_the_seed_determines_the_puzzles():
    first, again, other = (sudoku.generate(5, 9, seed).inputs for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not (first == other).all((1, 2, 3)).any()


@pytest.mark.parametrize(
    ("side", "givens", "message"),
    [
        (9, 16, "givens of a Sudoku of side 9 is 16; it must be a whole number from 17 to 80"),
        (4, 3, "givens of a Sudoku of side 4 is 3; it must be a whole number from 4 to 15"),
        (4, 16, "givens of a Sudoku of side 4 is 16"),
        (6, None, "side is 6; it must be one of 4, 9"),
    ],
)
def test_refused(side, givens, message):
    with pytest.raises(ValueError, match=message):
        sudoku.generate(1, side, 0, givens)


HEADER = "source,question,answer,rating\n"


def rows(problems):
    for number, pair in enumerate(zip(*digits(problems), strict=True)):
        puzzle, solution = ("".join(map(str, grid.ravel())) for grid in pair)
        yield f"puzzles0_kaggle,{puzzle.replace('0', '.')},{solution},{number}\n"


@pytest.fixture(scope="module")
def lines():
    return list(rows(sudoku.generate(3, 9, seed=0)))


def test_read_csv(tmp_path, lines):
    problems = sudoku.generate(3, 9, seed=0)
    path = tmp_path / "train.csv"
    path.write_text(HEADER + "".join(lines))
    for found, expected in zip(sudoku.read_csv(path), problems, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    np.testing.assert_array_equal(sudoku.read_csv(path, 2).inputs, problems.inputs[:2])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.removeprefix(HEADER), "its columns are .* expected .*'rating'"),
        (lambda text: "", "its columns are \\[\\]"),
        (lambda text: HEADER, "holds 0 puzzles"),
        (lambda text: text.replace(".", "0", 1), "line 2 is .*; expected source, question"),
        (lambda text: text[: len(HEADER) + 120], "line 2 is"),
        (lambda text: text.replace(",2\n", "\n"), "line 4 is"),
        (lambda text: text + "\xff,\n", "line 5 is"),
    ],
)
def test_another_csv_is_refused(tmp_path, lines, edit, message):
    path = tmp_path / "other.csv"
    path.write_text(edit(HEADER + "".join(lines)), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        sudoku.read_csv(path)
    assert str(path) in str(raised.value)


def test_a_csv_that_is_not_there_or_too_short(tmp_path, lines):
    with pytest.raises(ValueError, match=r"train.csv: No such file"):
        sudoku.read_csv(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_text(HEADER + "".join(lines))
    with pytest.raises(ValueError, match="holds 3 puzzles; expected 4"):
        sudoku.read_csv(tmp_path / "train.csv", 4)
