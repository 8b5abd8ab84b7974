"""From a checkpoint to a model that can be applied."""

import dataclasses
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from mdeq_jax.checkpoint.orbax_io import load_checkpoint
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
    """
    trained = load_trained(checkpoint_dir)
    return create_model(trained.config.model), trained.variables, trained.config


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
