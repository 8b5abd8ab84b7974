"""From a checkpoint to a model that can be applied."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from mdeq_jax.torch_files.fitting import Wanted, wanted_arrays
from mdeq_jax.torch_files.names import (
    array_name,
    from_torch,
    matching,
    our_shape,
    read_arrays,
    to_torch,
)
from mdeq_jax.torch_files.reader import LazyArray
from mdeq_jax.torch_files.weight_norm import fold_weight_norm
from mdeq_jax.training.weights import read_trained
from mdeq_jax.vision.config import Config, finalize
from mdeq_jax.vision.model import MDEQ, ModelConfig, create_model
from mdeq_jax.vision.torch_files.keys import canonical_name, layer_table

_CELL = "params/cell/"


def load(checkpoint_dir: str | os.PathLike[str]) -> tuple[MDEQ, PyTree, Config]:
    """Return the model of a checkpoint, its variables, and the config it was trained with.

    Args:
      checkpoint_dir: a workdir (its newest checkpoint), its ``best/``, or one step's folder.

    Returns:
      What ``model.apply(variables, images)`` needs, and the config.

    Raises:
      ValueError: the folder does not exist, or holds no intact checkpoint.

    Examples:
      >>> import mdeq_jax as mx
      >>> model, variables, config = mx.load("runs/digits")
      >>> config.model.branch_channels, sorted(variables)
      ((24, 24), ['batch_stats', 'params'])
    """
    trained = read_trained(checkpoint_dir, finalize)
    config = trained.config
    model = create_model(config.model, dtype=config.compute_dtype)
    return model, trained.variables, config


def start_from(
    variables: PyTree,
    source: str | os.PathLike[str],
    config: ModelConfig,
    *,
    allow_missing: Iterable[str] = (),
) -> tuple[PyTree, list[str]]:
    """Put the weights of another model into a new one, wherever name and shape agree.

    Weight norm is converted, from g and v to a kernel or back, into the form of the new model. The
    source may lack parts of the model, such as the head. In this way a segmentation model starts
    from a classifier's cell, as with `MODEL.PRETRAINED` of the originals.

    Args:
      variables: variables of the new model.
      source: a checkpoint folder (a workdir, its ``best/``, or one step's folder), or a file that
        `torch.save` wrote, with a state dict or a training checkpoint.
      config: architecture of the new model.
      allow_missing: list of names of arrays, with ``*`` for any part, that may keep their initial
        values although they belong to the cell. A name is the array's path, such as
        params/cell/branches_0_blocks_0/conv1/v, or its PyTorch name.

    Returns:
      The variables, and the paths of the arrays that kept their initial values, each with the
      reason.

    Raises:
      ValueError: the source cannot be read, nothing in it fits, an array of the cell would keep its
        initial value and `allow_missing` does not name it, or `allow_missing` is a string and not a
        list.
    """
    own: dict[Any, Any] = traverse_util.flatten_dict(variables)
    wanted = wanted_arrays(own, layer_table(config.task))
    found = fold_weight_norm(_arrays_in(source), wanted)
    misfits = {name: why for name, w in wanted.items() if (why := _misfit(found.get(name), w))}
    if len(misfits) == len(wanted):
        raise ValueError(
            f"nothing in {os.fspath(source)} fits this model; set config.init_from to weights of a "
            f"model of the same widths, {config.branch_channels}, or leave it out."
        )
    left = {"/".join(wanted[name].path): (name, why) for name, why in misfits.items()}
    _require_cell(left, os.fspath(source), allow_missing)
    for name in wanted.keys() - misfits:
        path = wanted[name].path
        own[path] = jnp.asarray(from_torch(path, found[name].read()), own[path].dtype)
    return traverse_util.unflatten_dict(own), [f"{path} ({left[path][1]})" for path in sorted(left)]


def _arrays_in(source: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """Return the arrays of a PyTorch file or of one of our checkpoints, by PyTorch name."""
    if os.path.isfile(source):
        return read_arrays(source, canonical_name)
    trained = read_trained(source, finalize)
    table = layer_table(trained.config.model.task)
    flat = traverse_util.flatten_dict(trained.variables)
    return {array_name(p, table): _lazy(to_torch(p, np.asarray(a))) for p, a in flat.items()}


def _lazy(array: np.ndarray) -> LazyArray:
    return LazyArray(array.shape, array.dtype, lambda: array)


def _misfit(found: LazyArray | None, wanted: Wanted) -> str | None:
    """Return why an array cannot be taken, or None if it can."""
    if found is None:
        return "not there"
    if found.shape != wanted.shape:
        there, here = (our_shape(wanted.path, shape) for shape in (found.shape, wanted.shape))
        return f"{there} there, {here} here"
    return None if jnp.issubdtype(found.dtype, jnp.floating) else f"{found.dtype} there"


def _require_cell(
    left: Mapping[str, tuple[str, str]], source: str, allow_missing: Iterable[str]
) -> None:
    """Raise ValueError if arrays of the cell keep initial values without permission.

    Args:
      left: PyTorch name and reason for each array that keeps its initial value, by path.
      source: the checkpoint or file that the weights come from.
      allow_missing: patterns of paths or PyTorch names.
    """
    names = [name for path, (name, _) in left.items() for name in (path, name)]
    allowed = matching(names, "allow_missing", allow_missing, canonical_name)
    lines = [
        f"\n  {path} ({why})"
        for path, (name, why) in sorted(left.items())
        if path.startswith(_CELL) and not {path, name} & allowed
    ]
    if lines:
        raise ValueError(
            f"{source}, which is config.init_from, does not fill the cell of this model:"
            + "".join(lines)
            + "\nSet config.model to the architecture of those weights. To train these arrays from "
            "their initial values, allow it by name: "
            f"--config.init_from_allow_missing=\"('{_CELL}*',)\""
        )
