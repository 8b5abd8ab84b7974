"""PyTorch's names and layouts of arrays, and ours."""

import fnmatch
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from mdeq_jax.checks import require_names
from mdeq_jax.torch_files.reader import LazyArray, read_state_dict

# Our name and PyTorch's for each parameter of a layer.
_LEAVES = {
    "kernel": "weight",  # convolution: (h, w, I, O) to (O, I, h, w); linear layer: transposed
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
    "v": "weight_v",  # (h, w, I, O) to (O, I, h, w)
    "g": "weight_g",  # (O,) to (O, 1, 1, 1)
}

# Modules around the whole model: DataParallel, a trainer's model with its loss, and torch.compile.
_PREFIX = re.compile(r"^((module|model|_orig_mod)\.)+")
# torch.nn.utils.parametrizations.weight_norm has original0 for g, and original1 for v.
_PARAMETRIZATION = re.compile(r"\bparametrizations\.(\w+)\.original([01])$")


def plain_name(name: str) -> str:
    """Return a name without modules around the whole model, and with weight norm's g and v.

    Examples:
      >>> plain_name("module._orig_mod.conv1.parametrizations.weight.original0")
      'conv1.weight_g'
    """
    name = _PREFIX.sub("", name)
    return _PARAMETRIZATION.sub(lambda m: f"{m[1]}_{'gv'[int(m[2])]}", name)


def read_arrays(
    path: str | os.PathLike[str], canonical: Callable[[str], str] = plain_name
) -> dict[str, LazyArray]:
    """Return a file's arrays by canonical names.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      canonical: returns the canonical name for a name in a file.

    Raises:
      ValueError: the file cannot be read, is damaged, holds anything but tensors and containers, or
        has two arrays with one canonical name.
    """
    arrays: dict[str, LazyArray] = {}
    for name, array in read_state_dict(path).items():
        if canonical(name) in arrays:
            raise ValueError(f"{os.fspath(path)}: {canonical(name)} is in it twice.")
        arrays[canonical(name)] = array
    return arrays


def matching(
    names: Collection[str],
    argument: str,
    patterns: Iterable[str],
    canonical: Callable[[str], str] = plain_name,
) -> set[str]:
    """Return the names that fit a pattern.

    Args:
      names: canonical PyTorch names, or our paths.
      argument: name of the argument that the patterns come from, for messages.
      patterns: names as they may stand in a file, with ``*`` for any part.
      canonical: returns the canonical name for a name in a file.

    Raises:
      ValueError: the patterns are one string, or an entry is not a string.
    """
    rules = [canonical(pattern) for pattern in require_names(argument, patterns)]
    return {name for name in names if any(fnmatch.fnmatchcase(name, rule) for rule in rules)}


def torch_name(path: Sequence[str], table: str) -> str:
    """Return the PyTorch name of one of our arrays.

    Args:
      path: keys inside the collection, such as ("cell", "conv1", "g").
      table: a row for each layer with PyTorch's name and ours, such as
        ``stages.{i}.{layer}  stage_{i}/{layer}``. {layer} is a word that both names have, other
        letters are numbers, and {i+1} is the number plus 1. The first row that fits holds.

    Raises:
      ValueError: no row fits.
    """
    *layer, leaf = path
    for theirs, ours in map(str.split, filter(None, table.split("\n"))):
        if match := re.fullmatch(_pattern(ours), "/".join(layer)):
            return f"{_fill(theirs, match.groupdict())}.{_LEAVES.get(leaf, leaf)}"
    raise ValueError(f"{'/'.join(path)} has no PyTorch name.")


def array_name(path: Sequence[str], table: str) -> str:
    """Return the PyTorch name of one of our arrays, or its path if it has no PyTorch name.

    Args:
      path: keys from the collection on, such as ("params", "cell", "conv1", "g").
      table: rows of names, as for `torch_name`.
    """
    try:
        return torch_name(path[1:], table)
    except ValueError:
        return "/".join(path)


def torch_shape(path: Sequence[str], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in PyTorch of one of our arrays."""
    if path[-1] == "g":
        return (*shape, 1, 1, 1)
    return (*shape[:-3:-1], *shape[:-2])


def from_torch(path: Sequence[str], array: np.ndarray) -> np.ndarray:
    """Return a PyTorch array in our layout at `path`; the inverse of `to_torch`."""
    if path[-1] == "g":
        return array.reshape(-1)
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def our_shape(path: Sequence[str], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return our shape of a PyTorch array; the inverse of `torch_shape`."""
    if path[-1] == "g":
        return shape[:1]
    return (*shape[2:], *shape[1::-1])


def to_torch(path: Sequence[str], array: np.ndarray) -> np.ndarray:
    """Return our array at `path` in PyTorch's layout; the inverse of `from_torch`."""
    if path[-1] == "g":
        return array.reshape(-1, 1, 1, 1)
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _pattern(ours: str) -> str:
    kinds = {"layer": r"[a-z]+\d?"}
    return re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{kinds.get(m[1], '[0-9]+')})", ours)


def _fill(theirs: str, parts: dict[str, str]) -> str:
    theirs = re.sub(r"\{(\w)\+1\}", lambda m: str(int(parts[m[1]]) + 1), theirs)
    return theirs.format(**parts)
