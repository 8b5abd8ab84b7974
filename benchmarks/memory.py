"""Temporary memory of a training step, as compiled, against solver steps and batch."""

import dataclasses
import resource
import sys
from typing import Any

import jax

from benchmarks.problems import Setting, setting
from benchmarks.timing import report
from benchmarks.training import training_step

_MIB = 2**20


def main(config: str = "cifar10_tiny", batch: int = 8, rounds: int = 1) -> None:
    """Print the memory of each setting, and what Broyden's history takes by the step.

    Args:
      config: name of a file in configs.
      batch: images; twice as many are compiled for as well.
      rounds: not used; nothing is timed.
    """
    del rounds
    rows = [
        _row(name, steps, images, config)
        for name, all_steps in (("picard", (10, 200)), ("broyden", (10, 40)))
        for steps in all_steps
        for images in (batch, 2 * batch)
    ]
    by_key = {(row["solver"], row["steps"], row["batch"]): row["temp_mib"] for row in rows}
    state_mib = rows[0]["state_mib"]
    slope = (by_key["broyden", 40, batch] - by_key["broyden", 10, batch]) / 30
    step, state, images = training_step(setting(config, batch), None)
    before = _peak_mib()
    jax.block_until_ready(step(state, images))
    report(
        "memory",
        rows,
        config=config,
        picard_growth=by_key["picard", 200, batch] / by_key["picard", 10, batch],
        broyden_slope_over_state=slope / state_mib,
        peak_added_mib=_peak_mib() - before,
    )


def _row(solver: str, steps: int, batch: int, config: str) -> dict[str, Any]:
    bench = _with_solver(setting(config, batch), solver, steps)
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


def _with_solver(bench: Setting, name: str, steps: int) -> Setting:
    solver = bench.config.solver
    changed = [
        dataclasses.replace(s, name=name, max_steps=steps)
        for s in (solver.forward, solver.backward)
    ]
    config = dataclasses.replace(bench.config, solver=type(solver)(*changed))
    return bench._replace(config=config)


def _peak_mib() -> float:
    """Peak memory of the device if it says, else of the process."""
    statistics = jax.devices()[0].memory_stats()
    if statistics is not None:
        return statistics["peak_bytes_in_use"] / _MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
