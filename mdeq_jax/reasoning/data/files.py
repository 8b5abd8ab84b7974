"""Read and write the published files of mazes and prefix sums.

Below one folder, the sets of aks2203/easy-to-hard-data are

    maze_data_{train,test}_{size}/inputs.npy     float64 (N, 3, S, S), S = 2·size + 6
    maze_data_{train,test}_{size}/solutions.npy  float64 (N, S, S)
    prefix_sums_data/{bits}_data.pth             float32 (N, bits), a tensor of torch.save
    prefix_sums_data/{bits}_targets.pth          float32 (N, bits)

and every entry is 0 or 1.

Source: Schwarzschild et al., "Datasets for Studying Generalization from Easy to Hard Examples",
arXiv 2108.06011.
"""

import os
from pathlib import Path
from typing import get_args

import numpy as np

from mdeq_jax.checks import require_one_of, require_whole
from mdeq_jax.reasoning.data import mazes, prefix_sums
from mdeq_jax.reasoning.data.problems import Problems, Split
from mdeq_jax.torch_files.reader import read_tensor


def read_mazes(
    folder: str | os.PathLike[str], split: Split, size: int, count: int | None = None
) -> Problems:
    """Return published mazes of one size.

    Args:
      folder: the folder that holds `maze_data_train_9` and its like.
      split: "train" (sizes 9 to 17) or "test".
      size: the size in the folder's name.
      count: number of mazes from the file's beginning; by default all.

    Returns:
      Inputs (N, S, S, 3), 0 or 1, with S = 2·size + 6; targets (N, S, S), 1 on the path, both ends
      included; every pixel that is not black is counted.

    Raises:
      ValueError: a file is missing, has another layout, or fewer mazes than `count`; the message
        names the file, or lists the sets that the folder holds.
    """
    require_one_of("split", split, get_args(Split))
    place = _set_folder(folder, split, size)
    if not place.is_dir():
        found = sorted(path.name for path in Path(folder).glob("maze_data_*"))
        raise ValueError(
            f"{place} is not there; {folder} holds {', '.join(found) or 'no maze_data_* folder'}."
        )
    side = 2 * size + 6
    inputs = _rows(place / "inputs.npy", "float64", (3, side, side), count)
    solutions = _rows(place / "solutions.npy", "float64", (side, side), count)
    _require_equal_counts(place / "solutions.npy", solutions, inputs)
    return mazes.as_problems(inputs.transpose(0, 2, 3, 1), solutions)


def write_mazes(folder: str | os.PathLike[str], split: Split, problems: Problems) -> Path:
    """Write mazes in the published layout, and return the folder of the two files.

    Args:
      folder: the folder to make the set's folder in, which is named after split and size.
      split: "train" or "test".
      problems: mazes of S × S pixels.
    """
    require_one_of("split", split, get_args(Split))
    place = _set_folder(folder, split, (problems.inputs.shape[1] - 6) // 2)
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / "inputs.npy", problems.inputs.transpose(0, 3, 1, 2).astype(np.float64))
    np.save(place / "solutions.npy", problems.targets.astype(np.float64))
    return place


def read_prefix_sums(
    folder: str | os.PathLike[str], bits: int, count: int | None = None
) -> Problems:
    """Return published bit strings of one length with the parity of each of their prefixes.

    Args:
      folder: the folder that holds `prefix_sums_data`.
      bits: length of the strings.
      count: number of strings from the file's beginning; by default all.

    Returns:
      Inputs (N, 1, bits, 1), bit − 0.5; targets (N, 1, bits), the parity; every position is
      counted.

    Raises:
      ValueError: a file is missing, has another layout, or fewer strings than `count`; the message
        names it.
    """
    place = Path(folder) / "prefix_sums_data"
    strings = _rows(place / f"{bits}_data.pth", "float32", (bits,), count)
    parities = _rows(place / f"{bits}_targets.pth", "float32", (bits,), count)
    _require_equal_counts(place / f"{bits}_targets.pth", parities, strings)
    return prefix_sums.as_problems(strings, parities)


def _set_folder(folder: str | os.PathLike[str], split: Split, size: int) -> Path:
    return Path(folder) / f"maze_data_{split}_{size}"


def _rows(path: Path, dtype: str, shape: tuple[int, ...], count: int | None) -> np.ndarray:
    """Return the first rows of a file, each of a shape, after checks of its layout."""
    least = 1 if count is None else count
    require_whole("count", least, 1)
    array = read_tensor(path).read() if path.suffix == ".pth" else _map(path)
    if array.dtype != dtype or array.shape[1:] != shape or len(array) < least:
        sizes = ", ".join(map(str, shape))
        raise ValueError(
            f"{path} holds {array.dtype} {array.shape}; expected {dtype} (N, {sizes}), N ≥ {least}."
        )
    rows = np.asarray(array[:count])
    if not np.isin(rows, (0, 1)).all():
        raise ValueError(f"{path} holds other numbers than 0 and 1, which are expected.")
    return rows


def _map(path: Path) -> np.ndarray:
    """Return the array of a .npy file, mapped into memory."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{path}: {reason}; expected an array written by numpy.save.") from None


def _require_equal_counts(path: Path, solutions: np.ndarray, inputs: np.ndarray) -> None:
    if len(solutions) != len(inputs):
        raise ValueError(f"{path} holds {len(solutions)} rows; expected {len(inputs)}.")
