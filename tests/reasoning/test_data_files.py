"""The published files of mazes and prefix sums."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mdeq_jax.reasoning.data import mazes
from mdeq_jax.reasoning.data.files import read_mazes, read_prefix_sums, write_mazes

FIXTURES = Path(__file__).parents[1] / "fixtures" / "reasoning"
PUBLISHED = FIXTURES / "easy_to_hard"
EXPECTED = np.load(FIXTURES / "easy_to_hard.npz")
MAZES, SUMS = "maze_data_train_9", "prefix_sums_data"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(PUBLISHED, tmp_path / "copy"))


def test_published_mazes():
    problems = read_mazes(PUBLISHED, "train", 9)
    inputs = EXPECTED["maze_inputs"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(problems.inputs, inputs)
    np.testing.assert_array_equal(problems.targets, EXPECTED["maze_solutions"])
    np.testing.assert_array_equal(problems.counted, inputs.max(-1))
    assert [field.dtype for field in problems] == [np.float32, np.int32, bool]
    blocks = mazes.to_cells(problems)
    np.testing.assert_array_equal(blocks.targets.sum((1, 2)) - 1, EXPECTED["maze_path_length"])
    for picture, ends in zip(blocks.inputs, EXPECTED["maze_start_x_y_end_x_y"], strict=True):
        start_x, start_y, end_x, end_y = 2 * ends + 1
        assert picture[start_y, start_x].tolist() == [0, 1, 0]
        assert picture[end_y, end_x].tolist() == [1, 0, 0]


def test_published_prefix_sums():
    problems = read_prefix_sums(PUBLISHED, 16)
    inputs = EXPECTED["prefix_network_inputs"]
    np.testing.assert_array_equal(problems.inputs[..., 0], inputs)
    np.testing.assert_array_equal(problems.targets[:, 0], EXPECTED["prefix_targets"])
    np.testing.assert_array_equal(problems.targets, (inputs > 0).cumsum(-1) % 2)
    assert [field.dtype for field in problems] == [np.float32, np.int32, bool]


def test_generated_mazes_have_the_published_layout(tmp_path):
    problems = mazes.generate(4, 9, seed=0)
    folder = write_mazes(tmp_path, "train", problems)
    for name in ("inputs.npy", "solutions.npy"):
        written, published = np.load(folder / name), np.load(PUBLISHED / folder.name / name)
        assert written.shape[1:] == published.shape[1:]
        assert written.dtype == published.dtype
    for found, expected in zip(read_mazes(tmp_path, "train", 9), problems, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_count():
    np.testing.assert_array_equal(
        read_mazes(PUBLISHED, "train", 9, 2).inputs, read_mazes(PUBLISHED, "train", 9).inputs[:2]
    )
    assert len(read_prefix_sums(PUBLISHED, 16, 5).targets) == 5
    with pytest.raises(ValueError, match=r"holds float64 \(3, 3, 24, 24\).* N ≥ 4"):
        read_mazes(PUBLISHED, "train", 9, 4)
    with pytest.raises(ValueError, match="count is 0"):
        read_prefix_sums(PUBLISHED, 16, 0)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda a: a.astype(np.float32),
            r"holds float32 \(3, 3, 24, 24\); expected float64 \(N, 3",
        ),
        (lambda a: a.transpose(0, 2, 3, 1), r"holds float64 \(3, 24, 24, 3\); expected float64"),
        (lambda a: a[0], r"holds float64 \(3, 24, 24\)"),
        (lambda a: a[:0], "N ≥ 1"),
        (lambda a: a * 255, "holds other numbers than 0 and 1"),
        (lambda a: a * np.nan, "holds other numbers than 0 and 1"),
        (lambda a: a.astype(object), "expected an array written by numpy.save"),
    ],
)
def test_mazes_of_another_layout(copy, edit, message):
    path = copy / MAZES / "inputs.npy"
    np.save(path, edit(np.load(path)))
    with pytest.raises(ValueError, match=message) as raised:
        read_mazes(copy, "train", 9)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x10", b"text" * 99])
def test_a_damaged_maze_file(copy, content):
    path = copy / MAZES / "solutions.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"expected an array written by numpy.save") as raised:
        read_mazes(copy, "train", 9)
    assert str(path) in str(raised.value)


def test_missing_files(copy):
    with pytest.raises(ValueError, match=rf"maze_data_test_13 is not there; .* holds {MAZES}\."):
        read_mazes(copy, "test", 13)
    with pytest.raises(ValueError, match="holds no maze_data_"):
        read_mazes(copy / "nowhere", "test", 13)
    with pytest.raises(ValueError, match="split is 'validation'"):
        read_mazes(copy, "validation", 9)
    (copy / MAZES / "inputs.npy").unlink()
    with pytest.raises(ValueError, match=r"inputs.npy: No such file"):
        read_mazes(copy, "train", 9)
    with pytest.raises(ValueError, match=r"17_data.pth: No such file"):
        read_prefix_sums(copy, 17)


def test_solutions_of_other_problems(copy):
    path = copy / MAZES / "solutions.npy"
    np.save(path, np.load(path)[:2])
    with pytest.raises(ValueError, match=r"solutions.npy holds 2 rows; expected 3"):
        read_mazes(copy, "train", 9)


def test_prefix_sums_of_another_layout(copy):
    data, targets = (copy / SUMS / f"16_{name}.pth" for name in ("data", "targets"))
    for path in (data, targets):
        path.rename(path.with_name(path.name.replace("16", "17")))
    with pytest.raises(ValueError, match=r"17_data.pth holds float32 \(12, 16\); expected .*17\)"):
        read_prefix_sums(copy, 17)
    data.write_bytes(b"not a tensor")
    with pytest.raises(ValueError, match=r"16_data.pth: not a file by torch.save"):
        read_prefix_sums(copy, 16)
