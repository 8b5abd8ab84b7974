"""Arrays by their PyTorch names: the arrays of a file, of our variables, and of a model."""

import fnmatch
import os
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from mdeq_jax.checks import require_names
from mdeq_jax.torch_files.fitting import Wanted
from mdeq_jax.torch_files.reader import LazyArray, read_state_dict
from mdeq_jax.vision.torch_files.keys import array_name, canonical_name, to_torch, torch_shape

Arrays = Mapping[str, LazyArray]


def read_arrays(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """Return a file's arrays by the names of the originals' models, for any layout.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.

    Raises:
      ValueError: the file cannot be read, is damaged, holds anything but tensors and containers, or
        has two arrays with one name.
    """
    arrays: dict[str, LazyArray] = {}
    for name, array in read_state_dict(path).items():
        if canonical_name(name) in arrays:
            raise ValueError(f"{os.fspath(path)}: {canonical_name(name)} is in it twice.")
        arrays[canonical_name(name)] = array
    return arrays


def arrays_of(variables: PyTree, task: str) -> dict[str, LazyArray]:
    """Return the arrays of our variables by PyTorch name, in PyTorch's layout.

    Args:
      variables: {"params": ..., "batch_stats": ...} of arrays.
      task: `ModelConfig.task` of the model.
    """
    flat = traverse_util.flatten_dict(variables)
    return {
        array_name(path, task): _lazy(to_torch(path, np.asarray(a))) for path, a in flat.items()
    }


def wanted_arrays(flat: Mapping[tuple[str, ...], Any], task: str) -> dict[str, Wanted]:
    """Return the arrays that a model needs, by PyTorch name.

    Args:
      flat: the model's arrays, or their shapes, by path.
      task: `ModelConfig.task` of the model.
    """
    return {
        array_name(path, task): Wanted(path, torch_shape(path, array.shape))
        for path, array in flat.items()
    }


def matching(names: Collection[str], argument: str, patterns: Iterable[str]) -> set[str]:
    """Return the names that fit a pattern.

    Args:
      names: canonical PyTorch names, or our paths.
      argument: name of the argument that the patterns come from, for messages.
      patterns: names of any layout, with ``*`` for any part.

    Raises:
      ValueError: the patterns are one string, or an entry is not a string.
    """
    rules = [canonical_name(pattern) for pattern in require_names(argument, patterns)]
    return {name for name in names if any(fnmatch.fnmatchcase(name, rule) for rule in rules)}


def fold_weight_norm(arrays: Arrays, wanted: Collection[str]) -> dict[str, LazyArray]:
    """Return arrays with weight norm in the form of the wanted names: weight = g v / ‖v‖.

    Args:
      arrays: arrays by PyTorch name.
      wanted: PyTorch names of the arrays that the model needs.
    """
    folded = dict(arrays)
    for weight in sorted({re.sub(r"\.weight_[gv]$", ".weight", name) for name in wanted}):
        g, v = f"{weight}_g", f"{weight}_v"
        if weight in wanted and weight not in folded and g in folded and v in folded:
            folded[weight] = _product(folded.pop(g), folded.pop(v))
        elif v in wanted and weight in folded and g not in folded and v not in folded:
            folded[g], folded[v] = _split(folded.pop(weight))
    return folded


def _lazy(array: np.ndarray) -> LazyArray:
    return LazyArray(array.shape, array.dtype, lambda: array)


def _product(g: LazyArray, v: LazyArray) -> LazyArray:
    def read() -> np.ndarray:
        direction = v.read().astype(np.float64)
        return g.read() * direction / _length(direction)

    # A g that does not fit v is an error, like a v of another shape.
    shape = v.shape if g.shape == (*v.shape[:1], 1, 1, 1) else g.shape
    return LazyArray(shape, v.dtype, read)


def _split(weight: LazyArray) -> tuple[LazyArray, LazyArray]:
    def read_v() -> np.ndarray:
        kernel = weight.read().astype(np.float64)
        # A channel of zeros has no direction. Its length is 0, so any direction will do.
        return np.where(_length(kernel) == 0, 1.0, kernel)

    def read_g() -> np.ndarray:
        return _length(weight.read().astype(np.float64))

    g = LazyArray((*weight.shape[:1], 1, 1, 1), weight.dtype, read_g)
    return g, LazyArray(weight.shape, weight.dtype, read_v)


def _length(kernel: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(kernel).sum(axis=(1, 2, 3), keepdims=True))
