"""Arrays by their PyTorch names: those of a file, those of a model of ours, and those it lacks."""

import fnmatch
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from mdeq_jax.checks import require_names
from mdeq_jax.vision.torch_files.keys import array_name, canonical_name, to_torch, torch_shape
from mdeq_jax.vision.torch_files.reader import LazyArray, read_state_dict

Arrays = Mapping[str, LazyArray]


class Wanted(NamedTuple):
    """One of our arrays: its path, its collection first, and the shape PyTorch has it in."""

    path: tuple[str, ...]
    shape: tuple[int, ...]


def read_arrays(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """Return a file's arrays by the names that the originals' models have, whatever the layout.

    Args:
      path: a file by `torch.save`, of a state dict or of a training checkpoint.

    Raises:
      ValueError: as `read_state_dict`; or two arrays have one name.
    """
    arrays: dict[str, LazyArray] = {}
    for name, array in read_state_dict(path).items():
        if canonical_name(name) in arrays:
            raise ValueError(f"{os.fspath(path)}: {canonical_name(name)} is in it twice.")
        arrays[canonical_name(name)] = array
    return arrays


def arrays_of(variables: PyTree, task: str) -> dict[str, LazyArray]:
    """Return the arrays of our variables by their PyTorch names, as a PyTorch file would have them.

    Args:
      variables: {"params": ..., "batch_stats": ...} of arrays.
      task: of the model, as in `ModelConfig`.
    """
    flat = traverse_util.flatten_dict(variables)
    return {
        array_name(path, task): _lazy(to_torch(path, np.asarray(a))) for path, a in flat.items()
    }


def wanted_arrays(flat: Mapping[tuple[str, ...], Any], task: str) -> dict[str, Wanted]:
    """Return what a model needs, by PyTorch name.

    Args:
      flat: the model's arrays, or their shapes, by path.
      task: of the model, as in `ModelConfig`.
    """
    return {
        array_name(path, task): Wanted(path, torch_shape(path, array.shape))
        for path, array in flat.items()
    }


def matching(names: Collection[str], argument: str, patterns: Iterable[str]) -> set[str]:
    """Return the names that fit a pattern.

    Args:
      names: canonical PyTorch names, or paths of ours.
      argument: name of the argument that the patterns come from, for messages.
      patterns: names of any layout, with ``*`` for any part.

    Raises:
      ValueError: the patterns are one string, or have an entry that is no string.
    """
    rules = [canonical_name(pattern) for pattern in require_names(argument, patterns)]
    return {name for name in names if any(fnmatch.fnmatchcase(name, rule) for rule in rules)}


def _lazy(array: np.ndarray) -> LazyArray:
    return LazyArray(array.shape, array.dtype, lambda: array)
