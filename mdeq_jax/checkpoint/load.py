"""From a checkpoint to a model that can be applied."""

import dataclasses
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from mdeq_jax.checkpoint.orbax_io import load_checkpoint
from mdeq_jax.checkpoint.torch_import import import_torch, infer_config
from mdeq_jax.config import Config, finalize
from mdeq_jax.models import MDEQ, ModelConfig, create_model


class Trained(NamedTuple):
    """A model as a checkpoint has it.

    Attributes:
      variables: what the model is applied with.
      config: of the run that wrote it.
      step: training steps taken.
    """

    variables: PyTree
    config: Config
    step: int


def load(checkpoint_dir: str | os.PathLike[str]) -> tuple[MDEQ, PyTree, Config]:
    """Return the model of a checkpoint, its variables, and the config it was trained with.

    Args:
      checkpoint_dir: a workdir (its newest checkpoint), its ``best/``, or one step's folder.

    Returns:
      What ``model.apply(variables, images)`` needs, and the config.

    Raises:
      ValueError: the folder does not exist, or holds no whole checkpoint.

    Examples:
      >>> import mdeq_jax as mx
      >>> model, variables, config = mx.load("runs/digits")
      >>> config.model.branch_channels, sorted(variables)
      ((24, 24), ['batch_stats', 'params'])
    """
    trained = load_trained(checkpoint_dir)
    config = trained.config
    model = create_model(config.model, dtype=config.compute_dtype)
    return model, trained.variables, config


def load_trained(
    checkpoint_dir: str | os.PathLike[str], expected: ModelConfig | None = None
) -> Trained:
    """Read a checkpoint, as `load`, and check that it is of an expected architecture.

    Raises:
      ValueError: as `load`; or the architectures differ, in more than dropout, which has no part
        in evaluation.
    """
    checkpoint = load_checkpoint(os.fspath(checkpoint_dir))
    config = finalize(checkpoint.config)
    if expected is not None:
        _require_same_architecture(config.model, expected, os.fspath(checkpoint_dir))
    variables = {name: checkpoint.state[name] for name in ("params", "batch_stats")}
    return Trained(jax.tree.map(jnp.asarray, variables), config, checkpoint.step)


def start_from(
    variables: PyTree, source: str | os.PathLike[str], config: ModelConfig
) -> tuple[PyTree, list[str]]:
    """Put the weights of another model into a new one, wherever name and shape agree.

    As `MODEL.PRETRAINED` of the originals: a segmentation model starts from a classifier's cell.

    Args:
      variables: of the new model.
      source: a checkpoint folder as of `load`, or a PyTorch file as of `import_torch`.
      config: architecture of the new model, for messages.

    Returns:
      The variables, and the names of those that kept their initial values, each with the reason.

    Raises:
      ValueError: as `load` or `import_torch`; or nothing fits.
    """
    if os.path.isfile(source):
        found = import_torch(source, infer_config(source, {}))
    else:
        found = load_trained(source).variables
    theirs = dict(jax.tree.leaves_with_path(found))
    left = []

    def take(path: tuple, own: Array) -> Array:
        found = theirs.get(path)
        if found is not None and found.shape == own.shape:
            return jnp.asarray(found, own.dtype)
        reason = "not there" if found is None else f"{found.shape} there, {own.shape} here"
        left.append(f"{jax.tree_util.keystr(path, simple=True, separator='/')} ({reason})")
        return own

    started = jax.tree.map_with_path(take, variables)
    if len(left) == len(jax.tree.leaves(variables)):
        raise ValueError(
            f"nothing in {os.fspath(source)} fits this model; set config.init_from to weights of a "
            f"model of the same widths, {config.branch_channels}, or leave it out."
        )
    return started, left


def _require_same_architecture(stored: ModelConfig, expected: ModelConfig, where: str) -> None:
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name != "dropout"]
    differing = [
        f"config.model.{name} is {getattr(expected, name)!r}, the checkpoint's "
        f"{getattr(stored, name)!r}"
        for name in names
        if getattr(stored, name) != getattr(expected, name)
    ]
    if differing:
        raise ValueError(
            f"the checkpoint in {where} is of another architecture: {'; '.join(differing)}. "
            "Use the config it was trained with."
        )
