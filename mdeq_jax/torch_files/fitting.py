"""Whether the arrays of a file fit a model, and what an import returns."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from mdeq_jax.torch_files.names import array_name, torch_shape
from mdeq_jax.torch_files.reader import LazyArray


class Wanted(NamedTuple):
    """One of our arrays: its path, which begins with the collection, and its shape in PyTorch."""

    path: tuple[str, ...]
    shape: tuple[int, ...]


class Inferred(NamedTuple):
    """The architecture of a file's model, and its fields that the file does not determine."""

    model: Any  # the application's `ModelConfig`
    open_fields: tuple[str, ...]


class Imported(NamedTuple):
    """A model's variables, and lines of text that say where they come from."""

    variables: PyTree
    report: list[str]


def wanted_arrays(flat: Mapping[tuple[str, ...], Any], table: str) -> dict[str, Wanted]:
    """Return the arrays that a model needs, by PyTorch name.

    Args:
      flat: the model's arrays, or their shapes, by path.
      table: rows of names, as for `torch_name`.
    """
    return {
        array_name(path, table): Wanted(path, torch_shape(path, array.shape))
        for path, array in flat.items()
    }


def misfits(arrays: Mapping[str, LazyArray], wanted: Mapping[str, Wanted]) -> list[str]:
    """Return a line for each array of a file that does not fit a model, or that is missing.

    Args:
      arrays: the arrays of a file, by PyTorch name.
      wanted: the arrays that the model needs, by PyTorch name.
    """
    missing, extra = wanted.keys() - arrays.keys(), arrays.keys() - wanted.keys()
    problems = [f"missing: {name} {wanted[name].shape}" for name in sorted(missing)]
    problems += [f"extra: {name} {arrays[name].shape}" for name in sorted(extra)]
    for name in sorted(wanted.keys() - missing):
        shape, dtype, _ = arrays[name]
        if shape != wanted[name].shape:
            problems.append(f"shape: {name} is {shape}, by the config {wanted[name].shape}")
        if not jnp.issubdtype(dtype, jnp.floating):  # NumPy's own does not know bfloat16
            problems.append(f"type: {name} is {dtype}; it must be floating point")
    return problems


def common_dtype(arrays: Iterable[LazyArray]) -> np.dtype:
    """Return the dtype, at least float32, that holds all numbers of the arrays."""
    # Two at a time, because NumPy finds no common type of float16 and bfloat16.
    return functools.reduce(np.promote_types, (a.dtype for a in arrays), np.dtype(np.float32))
