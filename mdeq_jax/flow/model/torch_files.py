"""Checkpoints of locuslab/deq-flow and of TorchDEQ's deq-flow, converted to variables of `FlowNet`.

torch is not needed, and no code in a file is executed.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.flow.model.create import create_model, init_variables
from mdeq_jax.torch_files.fitting import Imported, Wanted, wanted_arrays
from mdeq_jax.torch_files.importing import Shapes, Target, import_arrays
from mdeq_jax.torch_files.names import plain_name, read_arrays
from mdeq_jax.torch_files.reader import LazyArray

# Layers. {i}, {j}, {k} are numbers.
# PyTorch                               ours
_ENCODER = """
{net}.conv1                             {encoder}/conv1/conv
{net}.norm1                             {encoder}/conv1/norm
{net}.layer{i}.{j}.conv{k}              {encoder}/layer{i}_{j}/conv{k}/conv
{net}.layer{i}.{j}.norm{k}              {encoder}/layer{i}_{j}/conv{k}/norm
{net}.layer{i}.{j}.downsample.0         {encoder}/layer{i}_{j}/shortcut/conv
{net}.layer{i}.{j}.downsample.1         {encoder}/layer{i}_{j}/shortcut/norm
{net}.conv2                             {encoder}/conv2
"""
_CELL = """
update_block.encoder.convc{k}           update/motion/correlation{k}
update_block.encoder.convf{k}           update/motion/flow{k}
update_block.encoder.conv               update/motion/joint
update_block.gru.convz{k}               update/gru/update{k}
update_block.gru.convr{k}               update/gru/reset{k}
update_block.gru.convq{k}               update/gru/candidate{k}
update_block.flow_head.conv{k}          update/head_conv{k}
update_block.gma.to_v                   update/aggregate/value
update_block.gma                        update/aggregate
mask.0                                  mask/conv1
mask.2                                  mask/conv2
attn.to_qk                              attention/query_key
"""
_ENCODERS = {"fnet": "feature_encoder", "cnet": "context_encoder"}
LAYERS = _CELL + "".join(
    _ENCODER.replace("{net}", net).replace("{encoder}", ours) for net, ours in _ENCODERS.items()
)

# The arrays that tell the widths.
_FEATURES, _CONTEXT, _MASK = "fnet.conv2.weight", "cnet.conv2.weight", "mask.0.weight"
_MOTION, _HEAD = "update_block.encoder.{}.weight", "update_block.flow_head.conv1.weight"


def import_with_report(
    path: str | os.PathLike[str],
    config: ModelConfig,
    *,
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> Imported:
    """Return the variables of a flow model from a PyTorch file, and where they come from.

    Files of DEQ-Flow's versions 1.0 and 2.0 and of TorchDEQ are read, with and without weight norm.
    Weight norm is converted into the form of the config.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      config: the architecture of the model.
      allow_missing: list of PyTorch names, with ``*`` for any part, that may be missing in the
        file. These arrays get initial values.
      drop: list of PyTorch names, with ``*`` for any part, that are not read from the file.

    Returns:
      {"params": ..., "batch_stats": ...} of numpy arrays as `init_variables` returns them, float32,
      or float64 if the file has float64; and a report.

    Raises:
      ValueError: the file cannot be read, or holds more than tensors and containers; the two copies
        of a BatchNorm differ; names and shapes do not fit the architecture, with a line for each
        misfit; or `allow_missing` or `drop` is a string and not a list.
    """
    target = Target(
        _wanted(config),
        lambda: _initial(config),
        explain=lambda shapes: _explanations(shapes, config),
        why_ignored=_why_ignored,
        canonical=_canonical_name,
    )
    return import_arrays(path, _read(path), target, allow_missing=allow_missing, drop=drop)


def infer_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Return the architecture, inferred from the names and shapes in a PyTorch file.

    `detach_flow`, on which no array depends, has its default.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.

    Raises:
      ValueError: the file cannot be read, or does not hold a model of DEQ-Flow.
    """
    try:
        return _infer({name: array.shape for name, array in _read(path).items()})
    except _OtherModelError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


class _OtherModelError(ValueError):
    """The arrays are of another model."""


def _read(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """Return the arrays of a file by the names of version 2.0, those with two names once.

    Raises:
      ValueError: the file cannot be read, or the two copies of a BatchNorm differ.
    """
    arrays = read_arrays(path, _canonical_name)
    for name in [name for name in arrays if ".norm3." in name]:
        array, other = arrays.pop(name), name.replace(".norm3.", ".downsample.1.")
        if not np.array_equal(array.read(), arrays.setdefault(other, array).read()):
            raise ValueError(
                f"{os.fspath(path)}: {name} and {other} differ. They are two names of one layer, "
                "so the file is damaged or of another model."
            )
    return arrays


def _canonical_name(name: str) -> str:
    """Return the name in version 2.0, in which the mask is no part of the update block."""
    return re.sub(r"^update_block\.mask\.", "mask.", plain_name(name))


def _why_ignored(name: str) -> str | None:
    counter = name.endswith(".num_batches_tracked")
    return "counters of BatchNorm, which nothing depends on" if counter else None


@functools.cache
def _wanted(config: ModelConfig) -> Mapping[str, Wanted]:
    """Return the arrays that the model needs, by their names in version 2.0."""
    return wanted_arrays(jax.eval_shape(lambda: _initial(config)), LAYERS)


def _initial(config: ModelConfig) -> Mapping[tuple[str, ...], Any]:
    """Return the model's initial variables by path."""
    return traverse_util.flatten_dict(init_variables(create_model(config), jax.random.key(0)))


def _infer(shapes: Shapes) -> ModelConfig:
    """Return the architecture of arrays of these shapes.

    Raises:
      _OtherModelError: an array that tells a width is missing, or is no convolution.
    """
    kernels = {re.sub(r"\.weight_v$", ".weight", name): s for name, s in shapes.items()}

    def outputs(name: str) -> int:
        return _kernel(kernels, name)[0]

    encoder = tuple(outputs(f"cnet.layer{i}.0.conv1.weight") for i in (1, 2, 3))
    first = _MOTION.format("convc1")
    levels, radius = _pyramid(_kernel(kernels, first)[1])
    return ModelConfig(
        encoder=encoder,
        features=outputs(_FEATURES),
        hidden=outputs(_CONTEXT),
        correlation=(outputs(first), outputs(_MOTION.format("convc2"))),
        flow=(outputs(_MOTION.format("convf1")), outputs(_MOTION.format("convf2"))),
        motion=outputs(_MOTION.format("conv")) + 2,
        head=outputs(_HEAD),
        mask=outputs(_MASK),
        levels=levels,
        radius=radius,
        weight_norm=f"{first}_v" in shapes,
        attention="attn.to_qk.weight" in shapes,
    )


def _kernel(shapes: Shapes, name: str) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) != 4:
        problem = f"{name} has the shape {shape}" if shape else f"{name} is missing"
        raise _OtherModelError(f"it holds no model of DEQ-Flow: {problem}.")
    return shape


def _pyramid(windows: int) -> tuple[int, int]:
    """Return levels and radius of a number of correlations: levels · (2·radius + 1)².

    Where several fit, as for 324 = 4·9² = 36·3², the number of levels is the one nearest to 4.
    """
    fitting = [
        (windows // (2 * radius + 1) ** 2, radius)
        for radius in range(1, 9)
        if windows % (2 * radius + 1) ** 2 == 0
    ]
    if not fitting:
        raise _OtherModelError(
            f"it holds no model of DEQ-Flow: {windows} correlations are no square windows."
        )
    return min(fitting, key=lambda pair: abs(pair[0] - ModelConfig.levels))


def _explanations(shapes: Shapes, config: ModelConfig) -> list[str]:
    """Return where the config differs from the architecture inferred from the file."""
    try:
        found = _infer(shapes)
    except _OtherModelError as error:
        return [str(error)]
    # With and without weight norm the same weights fit, and no array depends on detach_flow.
    return [
        f"config.model.{field.name} is {ours!r}; by the file's arrays it is {theirs!r}"
        for field in dataclasses.fields(config)
        if field.name not in ("weight_norm", "detach_flow")
        and (ours := getattr(config, field.name)) != (theirs := getattr(found, field.name))
    ]
