"""Import of a PyTorch file into the variables of a model."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from mdeq_jax.torch_files.fitting import Imported, Wanted, common_dtype, misfits
from mdeq_jax.torch_files.names import from_torch, matching, plain_name
from mdeq_jax.torch_files.reader import LazyArray
from mdeq_jax.torch_files.weight_norm import fold_weight_norm

Arrays = Mapping[str, LazyArray]
Shapes = Mapping[str, tuple[int, ...]]
Path = tuple[str, ...]


class Target(NamedTuple):
    """A model that takes the arrays of a file.

    Attributes:
      wanted: the arrays that the model needs, by canonical PyTorch name.
      initialize: returns the model's initial variables by path.
      explain: returns lines that say why arrays of these shapes do not fit.
      why_ignored: returns why the model has no use for an array of this canonical name, or None.
      canonical: returns the canonical name for a name in a file.
      convert: returns an array in our layout, from our path and an array in PyTorch's.
    """

    wanted: Mapping[str, Wanted]
    initialize: Callable[[], Mapping[Path, Any]]
    explain: Callable[[Shapes], list[str]]
    why_ignored: Callable[[str], str | None] = lambda name: None
    canonical: Callable[[str], str] = plain_name
    convert: Callable[[Path, np.ndarray], np.ndarray] = from_torch


def import_arrays(
    path: str | os.PathLike[str],
    found: Arrays,
    target: Target,
    *,
    allow_missing: Iterable[str],
    drop: Iterable[str],
) -> Imported:
    """Return the variables of a model from the arrays of a file, and where they come from.

    Args:
      path: the file, for messages.
      found: its arrays by canonical name.
      target: the model.
      allow_missing: PyTorch names, with ``*`` for any part, of arrays that get initial values if
        they are missing in the file.
      drop: PyTorch names, with ``*`` for any part, of arrays that are not taken from the file.

    Raises:
      ValueError: names, shapes or types do not fit the model, with a line for each misfit; or
        `allow_missing` or `drop` is a string and not a list.
    """
    wanted, canonical = target.wanted, target.canonical
    ignored = {name: why for name in found if (why := target.why_ignored(name))}
    dropped = matching(found, "drop", drop, canonical)
    kept = {name: a for name, a in found.items() if name not in ignored and name not in dropped}
    arrays = fold_weight_norm(kept, wanted)
    missing = wanted.keys() - arrays.keys()
    initial = matching(missing, "allow_missing", allow_missing, canonical)
    problems = misfits(arrays, {name: w for name, w in wanted.items() if name not in initial})
    if problems:
        problems += target.explain({name: array.shape for name, array in kept.items()})
        raise ValueError("\n  ".join([f"{os.fspath(path)} does not fit:", *problems]))
    report = [
        _summary(arrays, wanted),
        *(f"refolded {_folding(name)}" for name in sorted(kept.keys() - arrays.keys())),
        *_counted(ignored),
        *(f"dropped {name}" for name in sorted(dropped)),
        *(f"left at its initial value: {name}" for name in sorted(initial)),
    ]
    return Imported(_variables(arrays, target), report)


def _variables(arrays: Arrays, target: Target) -> PyTree:
    dtype = common_dtype(arrays.values())
    paths = {name: wanted.path for name, wanted in target.wanted.items()}
    flat = {
        path: target.convert(path, arrays[name].read())
        for name, path in paths.items()
        if name in arrays
    }
    if missing := [path for path in paths.values() if path not in flat]:
        # Under jit, arrays that are not returned are not computed.
        flat |= jax.jit(lambda: {path: target.initialize()[path] for path in missing})()
    return traverse_util.unflatten_dict(
        {path: np.ascontiguousarray(array, dtype) for path, array in flat.items()}
    )


def _summary(arrays: Arrays, wanted: Mapping[str, Wanted]) -> str:
    params = [a for name, a in arrays.items() if wanted[name].path[0] == "params"]
    text = f"took {sum(math.prod(a.shape) for a in params):,} parameters in {len(params)} arrays"
    if len(arrays) > len(params):
        text += f" and {len(arrays) - len(params)} arrays of BatchNorm statistics"
    return f"{text}, {common_dtype(arrays.values())}"


def _folding(name: str) -> str:
    if name.endswith(".weight"):
        return f"{name} as weight_g and weight_v"
    return f"{name} into {re.sub('_[gv]$', '', name)}"


def _counted(ignored: Mapping[str, str]) -> list[str]:
    reasons = list(ignored.values())
    return [f"ignored {reasons.count(why)}: {why}" for why in sorted(set(reasons))]
