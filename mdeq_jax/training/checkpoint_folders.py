"""The folders of checkpoints, read as Orbax writes them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jaxtyping import PyTree

Content = TypeVar("Content")


def shapes(state: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a state's arrays by name; names of fields are those of dict keys."""
    leaves = ocp.tree.to_flat_dict(state, sep="/").items()
    return {name: tuple(x.shape) for name, x in leaves if hasattr(x, "shape")}


def step_folders(folder: epath.Path) -> list[epath.Path]:
    """Return the folders of finished checkpoints, the newest first."""
    if not folder.is_dir():
        return []
    steps = sorted(ocp.utils.checkpoint_steps(folder), reverse=True)
    return [folder / str(step) for step in steps]


def first_intact(
    folders: list[epath.Path], read: Callable[[epath.Path], Content]
) -> tuple[epath.Path, Content]:
    """Return the first folder that can be read, and its content; warn of each that is skipped.

    Args:
      folders: folders of single checkpoints.
      read: reads one of them.

    Raises:
      ValueError: none of them can be read.
    """
    problems = []
    for folder in folders:
        try:
            return folder, read(folder)
        except Exception as error:  # Orbax has no class of its own for a damaged file
            problems.append(f"{folder} cannot be read: {reason(error)}")
            logging.warning("checkpoint %s", problems[-1])
    raise ValueError(
        "\n".join(problems) + "\nNo intact checkpoint is left; restore the folder from a copy, name"
        " another, or delete it to start afresh."
    )


def _read(folder: epath.Path, items: dict[str, ocp.args.CheckpointArgs]) -> Mapping[str, Any]:
    handler = ocp.CompositeCheckpointHandler(
        state=ocp.PyTreeCheckpointHandler(), config=ocp.JsonCheckpointHandler()
    )
    with ocp.Checkpointer(handler) as reader:
        return reader.restore(folder, args=ocp.args.Composite(**items))


def read_config(folder: epath.Path) -> dict[str, Any]:
    """Return the config of a checkpoint, in JSON types."""
    return _read(folder, {"config": ocp.args.JsonRestore()})["config"]


def read_state(folder: epath.Path) -> dict[str, Any]:
    """Return the state of a checkpoint as numpy arrays, without knowing its structure."""
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), read_structure(folder)
    )
    return _read(folder, {"state": ocp.args.PyTreeRestore(restore_args=as_numpy)})["state"]


def read_structure(folder: epath.Path) -> PyTree:
    """Return the structure of a stored state, with shapes and dtypes."""
    return ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree


def reason(error: Exception) -> str:
    """Return the first line of an error's message, to which Orbax adds pages."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
