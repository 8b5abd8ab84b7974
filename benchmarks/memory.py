"""Temporary memory of a compiled training step, against solver steps and batch.

The config's own step also runs twice; the second run tells how much it adds to the memory in use.
"""

import ctypes
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.problems import setting, with_solver
from benchmarks.timing import report
from benchmarks.training import repeatable, training_step

_MIB = 2**20
_STATUS = Path("/proc/self/status")  # only on Linux


def main(config: str = "cifar10_tiny", batch: int = 8) -> None:
    """Print the memory of each setting, and of Broyden's history per step.

    Args:
      config: name of a file in configs.
      batch: number of images; a second compilation has twice as many.
    """
    rows = [
        _row(name, steps, images, config)
        for name, all_steps in (("picard", (10, 200)), ("broyden", (40, 80)))
        for steps in all_steps
        for images in (batch, 2 * batch)
    ]
    by_key = {(row["solver"], row["steps"], row["batch"]): row["temp_mib"] for row in rows}
    state_mib = rows[0]["state_mib"]
    slope = (by_key["broyden", 80, batch] - by_key["broyden", 40, batch]) / 40
    step, state, images = training_step(setting(config, batch), None)
    once = repeatable(step, state, images)
    jax.block_until_ready(once())
    report(
        "memory",
        rows,
        config=config,
        picard_growth=by_key["picard", 200, batch] / by_key["picard", 10, batch],
        broyden_slope_over_state=slope / state_mib,
        added_mib=_added_mib(once),
    )


def _row(solver: str, steps: int, batch: int, config: str) -> dict[str, Any]:
    bench = with_solver(setting(config, batch), solver, steps)
    step, state, images = training_step(bench, None)
    compiled = step.lower(state, images).compile()  # pyright: ignore[reportFunctionMemberAccess]
    z0 = bench.problem().z0
    return {
        "solver": solver,
        "steps": steps,
        "batch": batch,
        "state_mib": sum(z.size * z.dtype.itemsize for z in z0) / _MIB,
        "temp_mib": compiled.memory_analysis().temp_size_in_bytes / _MIB,
    }


def _added_mib(step: Callable[[], Any]) -> float:
    """Return how much a step adds to the memory in use, of the device or else of the process."""
    device = jax.devices()[0]
    if (before := device.memory_stats()) is not None:
        jax.block_until_ready(step())
        peak = device.memory_stats()["peak_bytes_in_use"]
        return (peak - before["bytes_in_use"]) / _MIB
    if not _STATUS.exists():
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)  # memory that earlier steps freed counts as free
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the memory in use now
    before = _status_kib("VmRSS")
    jax.block_until_ready(step())
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
