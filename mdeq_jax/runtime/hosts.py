"""Processes, on one host or many, that train or evaluate together."""

import importlib.util
import os
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree, Shaped

# Variables with the number of processes that Slurm's srun or Open MPI's mpirun started.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def connect(coordinator: str | None, process_count: int | None, process_id: int | None) -> None:
    """Join the processes that were started together; call it before anything is computed.

    Without arguments, JAX finds the other processes on TPUs, under Slurm and under Open MPI. A
    single process does not use the network.

    Args:
      coordinator: "HOST:PORT" of process 0.
      process_count: number of processes.
      process_id: number of this process, in [0, process_count).

    Raises:
      ValueError: only some of the three arguments are given, or one is out of range.
    """
    address = {"coordinator": coordinator, "process_count": process_count, "process_id": process_id}
    missing = [name for name, value in address.items() if value is None]
    if len(missing) == len(address):
        if _started_together():
            jax.distributed.initialize()
        return
    if missing:
        raise ValueError(
            f"--{', --'.join(missing)} not given; give all of --coordinator, --process_count and "
            "--process_id, or none."
        )
    if ":" not in str(coordinator):
        raise ValueError(f"--coordinator is {coordinator!r}; it must be HOST:PORT of process 0.")
    # Explicit flags have priority, also under Slurm: the process gets all devices of its host.
    jax.distributed.initialize(
        coordinator, process_count, process_id, cluster_detection_method="deactivate"
    )


def _started_together() -> bool:
    if any(int(os.environ.get(name, 1)) > 1 for name in _COUNTS):
        return True
    has_tpu = any(Path(device).exists() for device in ("/dev/accel0", "/dev/vfio/0"))
    return has_tpu and importlib.util.find_spec("libtpu") is not None


def is_main() -> bool:
    """Return whether this is process 0, which logs and writes for all."""
    return jax.process_index() == 0


def in_any_process(*flags: bool) -> list[bool]:
    """Return for each flag whether it is True in any process; all processes call this together."""
    if jax.process_count() == 1:
        return list(flags)
    return multihost_utils.process_allgather(np.array(flags)).any(axis=0).tolist()


def gather_rows(
    rows: PyTree[Shaped[np.ndarray, "n ..."]],
) -> PyTree[Shaped[np.ndarray, "N ..."]]:
    """Return the rows of all processes, in their order; all processes call this together."""
    if jax.process_count() == 1:
        return rows
    return multihost_utils.process_allgather(rows, tiled=True)
