"""PyTorch checkpoints of the originals, converted to our variables.

torch is not needed, and no code in a file is executed.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import PyTree

from mdeq_jax.torch_files.fitting import Imported, Inferred, wanted_arrays
from mdeq_jax.torch_files.importing import Target, import_arrays
from mdeq_jax.torch_files.names import read_arrays
from mdeq_jax.vision.model import ModelConfig, create_model
from mdeq_jax.vision.torch_files.infer import infer, possible_fields
from mdeq_jax.vision.torch_files.keys import canonical_name, layer_table, why_ignored


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
    return infer_with_open_fields(path, assumed).model


def infer_with_open_fields(path: str | os.PathLike[str], assumed: Mapping[str, Any]) -> Inferred:
    """Return the architecture of `infer_config`, and the fields that the file does not determine.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      assumed: fields of `ModelConfig` that a file does not determine.

    Raises:
      ValueError: the file cannot be read, or holds more than tensors and containers; it does not
        hold an MDEQ; or it contradicts `assumed`.
    """
    shapes = {name: array.shape for name, array in read_arrays(path, canonical_name).items()}
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
    table = layer_table(config.task)
    initialize = _initializer(config)
    target = Target(
        wanted_arrays(jax.eval_shape(initialize), table),
        initialize,
        explain=lambda shapes: _explanations(shapes, config),
        why_ignored=lambda name: why_ignored(name, config),
        canonical=canonical_name,
    )
    found = read_arrays(path, canonical_name)
    return import_arrays(path, found, target, allow_missing=allow_missing, drop=drop)


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
