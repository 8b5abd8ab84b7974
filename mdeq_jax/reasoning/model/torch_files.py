"""Checkpoints of aks2203/deep-thinking, converted to variables of `RecurrentNet`.

A file is {"net": state dict, "epoch": ..., "optimizer": ...}. torch is not needed, and no code in a
file is executed.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from mdeq_jax.reasoning.model.config import ModelConfig, Norm
from mdeq_jax.reasoning.model.create import Model
from mdeq_jax.reasoning.model.recurrent import RecurrentNet
from mdeq_jax.torch_files.fitting import Imported, Wanted
from mdeq_jax.torch_files.importing import Shapes, Target, import_arrays
from mdeq_jax.torch_files.names import read_arrays

Flat = dict[tuple[str, ...], Any]

# Fields of `ModelConfig` that a file determines.
_FIELDS = ("width", "start", "recall", "blocks")


def import_torch(
    path: str | os.PathLike[str],
    model: Model,
    *,
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> PyTree:
    """Return the variables of a recurrent model from a checkpoint of deep-thinking.

    Args:
      path: a file that `torch.save` wrote, with a training checkpoint or a state dict.
      model: the model that the arrays must fit.
      allow_missing: list of PyTorch names, with ``*`` for any part, that may be missing in the
        file. These arrays get initial values. The halting head's names are ``halting.*``.
      drop: list of PyTorch names, with ``*`` for any part, that are not read from the file.

    Returns:
      {"params": ...} of numpy arrays, float32, or float64 if the file has float64.

    Raises:
      ValueError: the file cannot be read, or holds more than tensors and containers; its names and
        shapes do not fit the model, with a line for each misfit; the model is a transformer; or
        `allow_missing` or `drop` is a string and not a list.
    """
    return import_with_report(path, model, allow_missing=allow_missing, drop=drop).variables


def import_with_report(
    path: str | os.PathLike[str],
    model: Model,
    *,
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> Imported:
    """Return the variables of `import_torch`, with the same arguments, and where they come from."""
    if not isinstance(model, RecurrentNet):
        raise ValueError(
            f"{os.fspath(path)}: config.model.kind is 'transformer'; only models of kind "
            "'recurrent' are imported."
        )
    target = Target(
        _wanted(model),
        lambda: _initial(model),
        explain=lambda shapes: _explanations(shapes, model),
        convert=lambda _, array: _from_torch(array),
    )
    found = read_arrays(path)
    return import_arrays(path, found, target, allow_missing=allow_missing, drop=drop)


def infer_model(path: str | os.PathLike[str], norm: Norm = "none") -> RecurrentNet:
    """Return the model of a checkpoint of deep-thinking, inferred from its names and shapes.

    Args:
      path: a file that `torch.save` wrote, with a training checkpoint or a state dict.
      norm: normalisation inside the blocks, which has no arrays: "group" for the networks whose
        name has ``gn``, "none" for the others.

    Raises:
      ValueError: the file cannot be read, or does not hold a network of deep-thinking.
    """
    shapes = {name: array.shape for name, array in read_arrays(path).items()}
    try:
        return _infer(shapes, norm)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def _initial(model: RecurrentNet) -> Flat:
    """Return the model's initial variables by path."""
    inputs = jnp.zeros((1, 1, 1, model.channels))
    return traverse_util.flatten_dict(model.init(jax.random.key(0), inputs))


def _wanted(model: RecurrentNet) -> dict[str, Wanted]:
    """Return the arrays that a model needs, by their names in deep-thinking."""
    return {
        _torch_name(path, model): Wanted(path, _torch_shape(leaf.shape, model.dimensions))
        for path, leaf in jax.eval_shape(lambda: _initial(model)).items()
    }


def _torch_name(path: tuple[str, ...], model: RecurrentNet) -> str:
    # In the recurrent part, the recall convolution comes before the blocks, in one dimension with a
    # relu as a module of its own.
    stage = (2 if model.dimensions == 1 else 1) if model.config.recall else 0
    name = ".".join((*path[1:-1], "weight" if path[-1] == "kernel" else path[-1]))
    name = re.sub(r"^projection\.", "projection.0.", name)
    name = re.sub(r"^recall\.", "recur_block.0.", name)
    name = re.sub(r"^blocks_(\d+)\.", rf"recur_block.{stage}.\1.", name)
    return re.sub(r"^head_convs_(\d+)\.", lambda m: f"head.{2 * int(m[1])}.", name)


def _torch_shape(shape: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    """Return the shape (O, I, width) or (O, I, height, width) of a kernel; others stay."""
    if len(shape) != 4:
        return shape
    height, width, inputs, outputs = shape
    return (outputs, inputs, width) if dimensions == 1 else (outputs, inputs, height, width)


def _from_torch(array: np.ndarray) -> np.ndarray:
    """Return a kernel (height, width, I, O); arrays of other ranks stay."""
    if array.ndim == 3:
        array = array[:, :, None]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _infer(shapes: Shapes, norm: Norm) -> RecurrentNet:
    first, last = shapes.get("projection.0.weight", ()), shapes.get("head.4.weight", ())
    blocks = [re.fullmatch(r"recur_block\.\d+\.(\d+)\.conv1\.weight", name) for name in shapes]
    if len(first) not in (3, 4) or len(last) != len(first) or not any(blocks):
        raise ValueError(
            "it holds no network of deep-thinking: it must have convolutions named "
            "projection.0.weight, recur_block.*.*.conv1.weight and head.4.weight."
        )
    config = ModelConfig(
        width=first[0],
        start="projection",
        recall="recur_block.0.weight" in shapes,
        blocks=sum(map(bool, blocks)),
        norm=norm,
    )
    return RecurrentNet(config, first[1], last[0], len(first) - 2)


def _explanations(shapes: Shapes, model: RecurrentNet) -> list[str]:
    """Return where the model differs from the one inferred from the file."""
    try:
        found = _infer(shapes, "none")
    except ValueError as error:
        return [str(error)]
    values = [
        (f"config.model.{field}", vars(model.config)[field], vars(found.config)[field])
        for field in _FIELDS
    ]
    values += [
        (f"the task's number of {what}", getattr(model, what), getattr(found, what))
        for what in ("channels", "classes", "dimensions")
    ]
    return [
        f"{name} is {ours!r}; by the file's arrays it is {theirs!r}"
        for name, ours, theirs in values
        if ours != theirs
    ]
