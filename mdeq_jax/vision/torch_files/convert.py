"""PyTorch checkpoints of the originals, converted to our variables.

torch is not needed, and no code in a file is executed.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from mdeq_jax.torch_files.fitting import Imported, Wanted, common_dtype, misfits
from mdeq_jax.vision.model import ModelConfig, create_model
from mdeq_jax.vision.torch_files.arrays import (
    Arrays,
    fold_weight_norm,
    matching,
    read_arrays,
    wanted_arrays,
)
from mdeq_jax.vision.torch_files.infer import Inferred, infer, possible_fields
from mdeq_jax.vision.torch_files.keys import from_torch, why_ignored


def import_torch(
    path: str | os.PathLike[str],
    config: ModelConfig,
    *,
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> PyTree:
    """Return the variables of a model from a PyTorch file of the originals or of TorchDEQ.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      config: the architecture of the model.
      allow_missing: list of PyTorch names, with ``*`` for any part, that may be missing in the
        file. These arrays get initial values.
      drop: list of PyTorch names, with ``*`` for any part, that are not read from the file.

    Returns:
      {"params": ..., "batch_stats": ...} of numpy arrays, float32, or float64 if the file has
      float64.

    Raises:
      ValueError: the file cannot be read, or holds more than tensors and containers; its names and
        shapes do not fit the architecture, with a line for each misfit; or `allow_missing` or
        `drop` is a string and not a list.

    Examples:
      >>> import jax
      >>> import mdeq_jax as mx
      >>> variables = mx.import_torch("digits_tiny.pkl", mx.ModelConfig())
      >>> sum(x.size for x in jax.tree.leaves(variables["params"]))
      158890
    """
    return import_with_report(path, config, allow_missing=allow_missing, drop=drop).variables


def infer_config(path: str | os.PathLike[str], assumed: Mapping[str, Any]) -> ModelConfig:
    """Return the architecture, inferred from the names and shapes in a PyTorch file.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      assumed: fields of `ModelConfig` that a file does not determine: num_groups, dropout, and
        downsample_times if the stem has two convolutions.

    Raises:
      ValueError: the file cannot be read, or holds more than tensors and containers; it does not
        hold an MDEQ; or it contradicts `assumed`.
    """
    return infer_with_open_fields(path, assumed).config


def infer_with_open_fields(path: str | os.PathLike[str], assumed: Mapping[str, Any]) -> Inferred:
    """Return the architecture of `infer_config`, and the fields that the file does not determine.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      assumed: fields of `ModelConfig` that a file does not determine.

    Raises:
      ValueError: the file cannot be read, or holds more than tensors and containers; it does not
        hold an MDEQ; or it contradicts `assumed`.
    """
    shapes = _shapes(read_arrays(path))
    try:
        return infer(shapes, assumed)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def import_with_report(
    path: str | os.PathLike[str],
    config: ModelConfig,
    *,
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> Imported:
    """Return the variables of `import_torch`, with the same arguments, and where they come from."""
    found = read_arrays(path)
    ignored = {name: why for name in found if (why := why_ignored(name, config))}
    dropped = matching(found, "drop", drop)
    kept = {name: a for name, a in found.items() if name not in ignored and name not in dropped}
    wanted = wanted_arrays(jax.eval_shape(_initializer(config)), config.task)
    arrays = fold_weight_norm(kept, wanted)
    initial = matching(wanted.keys() - arrays.keys(), "allow_missing", allow_missing)
    problems = misfits(arrays, {n: w for n, w in wanted.items() if n not in initial})
    if problems:
        problems += _explanations(_shapes(kept), config)
        raise ValueError("\n  ".join([f"{os.fspath(path)} does not fit:", *problems]))
    variables = _convert(arrays, wanted, config)
    report = [
        _summary(variables),
        *(f"refolded {_folding(name)}" for name in sorted(kept.keys() - arrays.keys())),
        *_counted(ignored),
        *(f"dropped {name}" for name in sorted(dropped)),
        *(f"left at its initial value: {name}" for name in sorted(initial)),
    ]
    return Imported(variables, report)


def _initializer(config: ModelConfig) -> Callable[[], dict[tuple[str, ...], Any]]:
    """Return a function that returns the model's initial variables by path."""
    side = config.size_divisor
    images = jnp.zeros((1, side, side, 3))
    model = create_model(config)
    return lambda: traverse_util.flatten_dict(model.init(jax.random.key(0), images))


def _explanations(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig) -> list[str]:
    """Return where the config differs from the architecture inferred from the file."""
    try:
        possible = possible_fields(shapes)
    except ValueError as error:
        return [str(error)]
    # With and without weight norm, the same weights fit.
    return [
        f"config.model.{field} is {getattr(config, field)!r}; by the file's arrays it is "
        + " or ".join(map(repr, options))
        for field, options in possible.items()
        if field != "weight_norm" and getattr(config, field) not in options
    ]


def _convert(arrays: Arrays, wanted: Mapping[str, Wanted], config: ModelConfig) -> PyTree:
    dtype = common_dtype(array for name, array in arrays.items() if name in wanted)
    flat = {
        target.path: np.ascontiguousarray(from_torch(target.path, arrays[name].read()), dtype)
        for name, target in wanted.items()
        if name in arrays
    }
    if missing := [target.path for name, target in wanted.items() if name not in arrays]:
        initialize = _initializer(config)
        # Under jit, arrays that are not returned are not computed.
        initial = jax.jit(lambda: {path: initialize()[path] for path in missing})()
        flat |= {path: np.asarray(array, dtype) for path, array in initial.items()}
    return traverse_util.unflatten_dict(flat)


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _summary(variables: PyTree) -> str:
    params, statistics = (jax.tree.leaves(variables[kind]) for kind in ("params", "batch_stats"))
    return (
        f"took {sum(x.size for x in params):,} parameters in {len(params)} arrays and "
        f"{len(statistics)} arrays of BatchNorm statistics, {params[0].dtype}"
    )


def _folding(name: str) -> str:
    if name.endswith(".weight"):
        return f"{name} as weight_g and weight_v"
    return f"{name} into {re.sub('_[gv]$', '', name)}"


def _counted(ignored: Mapping[str, str]) -> list[str]:
    reasons = list(ignored.values())
    return [f"ignored {reasons.count(why)}: {why}" for why in sorted(set(reasons))]
