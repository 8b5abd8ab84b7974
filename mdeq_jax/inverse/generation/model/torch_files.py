"""Checkpoints of locuslab/JIIO-DEQ, converted to parameters of `Generator`.

torch is not needed, and no code in a file is executed. A file also holds an encoder, which differs
from ours and is not read.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mdeq_jax.inverse.generation.model.generator import Generator, init_params
from mdeq_jax.torch_files.fitting import Imported, Wanted
from mdeq_jax.torch_files.importing import Shapes, Target, import_arrays
from mdeq_jax.torch_files.names import array_name, from_torch, read_arrays, torch_shape

# Layers. {i}, {j}, {k} are numbers, {layer} is the same name on both sides.
# PyTorch                                       ours
_LAYERS = """
latent_maps.{i}                                 latent_maps_{i}
decoder.branches.{i}.blocks.{j}.{layer}         update/branches_{i}_blocks_{j}/{layer}
decoder.fuse_layers.{i}.{j}.net.{k}.{layer}     update/fuse_layers_{i}_{j}/net_{k}/{layer}
decoder.fuse_layers.{i}.{j}.net.{layer}         update/fuse_layers_{i}_{j}/net/{layer}
decoder.post_fuse_layers.{i}.{layer}            update/post_fuse_layers_{i}/{layer}
branch_interp.last_layer.0                      merge/conv1
branch_interp.last_layer.1                      merge/norm
branch_interp.last_layer.3                      merge/conv2
upsample.0                                      merge/upsample_norm0
upsample.2                                      merge/upsample_conv0/conv
upsample.3                                      merge/upsample_norm1
upsample.5                                      merge/upsample_conv1/conv
"""
# The parts of the generator; all others belong to the encoder, or are copies.
_PARTS = ("latent_maps", "decoder", "branch_interp", "upsample")

Flat = Mapping[tuple[str, ...], Any]


def import_generator(
    path: str | os.PathLike[str],
    model: Generator,
    *,
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> Imported:
    """Return the parameters of a generator from a file of JIIO-DEQ, and where they come from.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      model: the generator, which must have an upsampling part.
      allow_missing: list of PyTorch names, with ``*`` for any part, that may be missing in the
        file. These arrays get initial values.
      drop: list of PyTorch names, with ``*`` for any part, that are not read from the file.

    Returns:
      {"params": ...} of numpy arrays as `init_params` returns them, float32, or float64 if the file
      has float64; and a report.

    Raises:
      ValueError: the file cannot be read, or holds more than tensors and containers; its names and
        shapes do not fit the model, with a line for each misfit; or `allow_missing` or `drop` is a
        string and not a list.
    """
    target = Target(
        _wanted(model),
        lambda: _initial(model),
        explain=_explanations,
        why_ignored=_why_ignored,
        convert=lambda path, array: _from_torch(path, array, model),
    )
    found = read_arrays(path)
    return import_arrays(path, found, target, allow_missing=allow_missing, drop=drop)


def _initial(model: Generator) -> Flat:
    """Return the model's initial variables by path."""
    return traverse_util.flatten_dict({"params": init_params(model, jax.random.key(0))})


def _wanted(model: Generator) -> dict[str, Wanted]:
    """Return the arrays that a model needs, by PyTorch name."""
    flat = jax.eval_shape(lambda: _initial(model))
    return {
        array_name(path, _LAYERS): Wanted(path, _torch_shape(path, leaf.shape, model))
        for path, leaf in flat.items()
    }


def _is_latent_map(path: tuple[str, ...]) -> bool:
    return path[-2].startswith("latent_maps")


def _is_transposed(path: tuple[str, ...]) -> bool:
    """Return whether an array is the kernel (I, O, h, w) of a transposed convolution."""
    return path[-3].startswith("upsample_conv")


def _torch_shape(
    path: tuple[str, ...], shape: tuple[int, ...], model: Generator
) -> tuple[int, ...]:
    if _is_transposed(path):
        return (*shape[2:], *shape[:2])
    if not _is_latent_map(path):
        return torch_shape(path, shape)
    entries = int(np.prod(shape[-3:]))
    return (entries, model.config.latent_size) if path[-1] == "kernel" else (entries,)


def _from_torch(path: tuple[str, ...], array: np.ndarray, model: Generator) -> np.ndarray:
    """Return an array in our layout."""
    if _is_transposed(path):
        # It adds pixels where a convolution would collect them, so the kernel is flipped.
        return array.transpose(2, 3, 0, 1)[::-1, ::-1]
    if not _is_latent_map(path):
        return from_torch(path, array)
    height, width, channels = model.state_shapes[int(path[-2].removeprefix("latent_maps_"))]
    array = array.reshape(channels, height, width, *array.shape[1:])
    return np.moveaxis(array, 0, 2) if path[-1] == "bias" else array.transpose(3, 1, 2, 0)


def _why_ignored(name: str) -> str | None:
    if name.endswith(".num_batches_tracked"):
        return "counters of BatchNorm, which nothing depends on"
    part = name.split(".")[0]
    return None if part in _PARTS else "the encoder, and copies of other parts"


def _explanations(shapes: Shapes) -> list[str]:
    """Return what the file's arrays say of the architecture."""
    maps = [shape for name, shape in shapes.items() if name.endswith("latent_maps.0.weight")]
    if not maps:
        return ["it holds no generator of JIIO-DEQ: latent_maps.0.weight is missing."]
    return [
        f"by the file's arrays config.model.latent_size is {maps[0][1]}; upsampling must not be "
        "None, and num_groups, which no array tells, is the originals' NUM_GROUPS."
    ]
