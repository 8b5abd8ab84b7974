"""The weights of a checkpoint, for a fresh run to start from."""

import fnmatch
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mdeq_jax.checks import require_names
from mdeq_jax.training.checkpoints import eval_variables, load_checkpoint
from mdeq_jax.training.experiment import Variables


def load_matching(
    variables: Variables, source: str, allow_missing: Iterable[str] = ()
) -> tuple[Variables, list[str]]:
    """Return variables with the arrays of a checkpoint, and the names of the arrays it lacks.

    An array is taken where its name and its shape agree. Its name is its path, such as
    "params/cell/kernel".

    Args:
      variables: nested dicts of arrays.
      source: a workdir (its newest checkpoint), its ``best/``, or one step's folder.
      allow_missing: names of arrays that may keep their values although the checkpoint has nothing
        for them; ``*`` stands for any part.

    Raises:
      ValueError: the checkpoint cannot be read, nothing in it fits, or it has nothing for an array
        that `allow_missing` does not name.
    """
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
