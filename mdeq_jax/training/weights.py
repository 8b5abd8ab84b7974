"""Trained models and their weights, read from checkpoints."""

import dataclasses
import fnmatch
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from mdeq_jax.checks import require_names
from mdeq_jax.torch_files.fitting import Imported
from mdeq_jax.training.checkpoints import load_checkpoint
from mdeq_jax.training.experiment import Variables

AnyConfig = TypeVar("AnyConfig")


class Trained(NamedTuple, Generic[AnyConfig]):
    """A trained model, as a checkpoint holds it.

    Attributes:
      variables: the variables that evaluation applies the model with.
      config: the config of the run that wrote it.
      step: number of training steps taken.
    """

    variables: PyTree
    config: AnyConfig
    step: int


def read_trained(
    checkpoint_dir: str | os.PathLike[str], finalize: Callable[[Mapping[str, Any]], AnyConfig]
) -> Trained[AnyConfig]:
    """Read a trained model.

    Args:
      checkpoint_dir: a workdir (its newest checkpoint), its ``best/``, or one step's folder.
      finalize: checks a config and freezes it.

    Raises:
      ValueError: the folder does not exist, or holds no intact checkpoint.
    """
    checkpoint = load_checkpoint(os.fspath(checkpoint_dir))
    config = finalize(checkpoint.config)
    variables = jax.tree.map(jnp.asarray, eval_variables(checkpoint.state))
    return Trained(variables, config, checkpoint.step)


def eval_variables(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables for evaluation from the state of a `Checkpoint`.

    The parameters are the averaged ones, if the run kept a moving average.
    """
    params = state["params"] if state.get("ema") is None else state["ema"]
    collections = state.get("collections")
    if collections is None:  # checkpoints of version 0.1 have this one collection
        collections = {"batch_stats": state["batch_stats"]}
    return {"params": params, **collections}


def state_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return variables as the state of a `Checkpoint` that no run has written."""
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    return {"params": variables["params"], "collections": collections}


def require_same_architecture(stored: Any, expected: Any, where: str) -> None:
    """Raise ValueError unless two architectures are the same, up to dropout.

    Dropout plays no part in evaluation.

    Args:
      stored: the section ``model`` of a checkpoint's config, a dataclass.
      expected: the section ``model`` of another config, of the same class.
      where: the checkpoint's folder, for the message.
    """
    names = [field.name for field in dataclasses.fields(expected) if field.name != "dropout"]
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


def load_matching(
    variables: Variables,
    source: str,
    allow_missing: Iterable[str] = (),
    import_file: Callable[..., Imported] | None = None,
) -> tuple[Variables, list[str]]:
    """Return variables with the arrays of a checkpoint, and the names of the arrays it lacks.

    An array is taken where its name and its shape agree. Its name is its path, such as
    "params/cell/kernel".

    Args:
      variables: nested dicts of arrays.
      source: a workdir (its newest checkpoint), its ``best/``, or one step's folder.
      allow_missing: names of arrays that may keep their values although the checkpoint has nothing
        for them; ``*`` stands for any part.
      import_file: reads a source that is a file, as ``import_file(source, allow_missing=...)``;
        None if the application reads none.

    Raises:
      ValueError: the source cannot be read, nothing in it fits, or it has nothing for an array
        that `allow_missing` does not name.
    """
    if import_file is not None and os.path.isfile(source):
        imported = import_file(source, allow_missing=allow_missing)
        return imported.variables, [x for x in imported.report if x.startswith("left at")]
    patterns = require_names("allow_missing", allow_missing)
    name_of = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    stored = jax.tree_util.tree_leaves_with_path(eval_variables(load_checkpoint(source).state))
    found, left = {name_of(path): array for path, array in stored}, []

    def take(path: tuple, own: Array) -> Array:
        name = name_of(path)
        if name in found and found[name].shape == own.shape:
            return jnp.asarray(found[name], own.dtype)
        left.append(name)
        return own

    taken = jax.tree_util.tree_map_with_path(take, variables)
    if len(left) == len(jax.tree.leaves(variables)):
        raise ValueError(f"nothing in {source}, which is config.init_from, fits this model.")
    missing = [name for name in left if not any(fnmatch.fnmatch(name, p) for p in patterns)]
    if missing:
        raise ValueError(
            f"{source}, which is config.init_from, has nothing that fits {', '.join(missing)}. "
            "Set config.model to the architecture of those weights, or let these arrays start from "
            f"their initial values by --config.init_from_allow_missing=\"('{missing[0]}',)\""
        )
    return taken, left
