"""The devices of a run: one mesh axis "data", over which the rows of a batch are split."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from mdeq_jax.training.config import RunConfig

AXIS = "data"


def create_mesh() -> Mesh:
    """Return the mesh ("data",) over all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch_sizes(config: RunConfig, mesh: Mesh) -> None:
    """Raise ValueError unless both batch sizes divide evenly over the devices of the mesh.

    Args:
      config: the config of the run, for data.batch_size, data.eval_batch_size and
        train.accumulate_steps.
      mesh: the mesh, as `create_mesh` returns it.
    """
    parts_of = {"batch_size": config.train.accumulate_steps, "eval_batch_size": 1}
    for field, parts in parts_of.items():
        size = getattr(config.data, field)
        times = "" if parts == 1 else f" times config.train.accumulate_steps, {parts}"
        if size % (mesh.size * parts):
            raise ValueError(
                f"config.data.{field} is {size}; it must be a multiple of {mesh.size}, the number "
                f"of devices{times}."
            )


def place(tree: PyTree, mesh: Mesh, spec: PartitionSpec) -> PyTree:
    """Put host arrays on the devices of the mesh.

    Args:
      tree: host arrays. Under ``PartitionSpec()`` all processes hold the same values, and every
        device gets a copy; under ``PartitionSpec("data")`` each process holds its own rows.
      mesh: the mesh, as `create_mesh` returns it.
      spec: how each array is spread.
    """
    sharding = NamedSharding(mesh, spec)
    # `device_put` would make the processes compare every array with each other.
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a copy of every array, equal in all processes, on every device of the mesh."""
    return place(tree, mesh, PartitionSpec())


def shard(batch: PyTree, mesh: Mesh) -> PyTree:
    """Put this process's rows of a batch on its devices, split over the mesh."""
    return place(batch, mesh, PartitionSpec(AXIS))
