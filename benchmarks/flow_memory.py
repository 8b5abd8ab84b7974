"""Temporary memory of DEQ-Flow's compiled training steps, against recurrent steps of its cell."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.compiled_step import compile_step
from benchmarks.results import Results, Row
from mdeq_jax.flow.config import Config
from mdeq_jax.flow.experiment import create_experiment
from mdeq_jax.training.config import override

# (states of the correction, phantom steps from each of them)
EQUILIBRIA = ((3, 1), (6, 1), (2, 3), (1, 1))


def recurrent(steps: int) -> dict[str, Any]:
    """Return the keys of RAFT's training: `steps` applications, with a loss on each of them."""
    return {
        "train.pretrain_steps": 10**9,
        "train.num_layers": steps,
        "correction.states": steps,
        "solver.forward.max_steps": steps,
    }


def equilibrium(steps: int, states: int, phantom_steps: int) -> dict[str, Any]:
    """Return the keys of DEQ-Flow's training.

    Args:
      steps: number of solver steps.
      states: number of states with a loss, the equilibrium among them.
      phantom_steps: number of applications that are differentiated, from each of the states.
    """
    return {
        "solver.forward.max_steps": steps,
        "correction.states": states,
        "adjoint.steps": phantom_steps,
    }


def measure_memory(
    results: Results,
    config: Config,
    all_steps: Sequence[int],
    equilibria: Sequence[tuple[int, int]] = EQUILIBRIA,
) -> list[Row]:
    """Compile the steps, run none of them, and return a row for each.

    Args:
      results: where rows are found and written.
      config: the config, with model, crop and batch size.
      all_steps: numbers of applications of the cell; each is compared with RAFT of as many.
      equilibria: pairs of `states` and `phantom_steps` of DEQ-Flow; states is at most the steps.

    Returns:
      Rows with temp_mib, the temporary memory in MiB; over, RAFT's memory over the row's; and
      beyond_over, the same after the memory of one application with its loss is taken from both,
      which leaves out what encoders, correlations and optimizer need in any case; None if nothing
      is left.
    """
    methods = [(1, "recurrent", recurrent(1))]
    for steps in all_steps:
        methods += [(steps, "recurrent", recurrent(steps))]
        methods += [
            (steps, f"states {states}, phantom steps {taped}", equilibrium(steps, states, taped))
            for states, taped in equilibria
        ]
    height, width = config.data.crop
    setting = {
        "hidden": config.model.hidden,
        "crop": f"{width}x{height}",
        "batch": config.data.batch_size,
    }
    rows, mib = [], {}
    for steps, method, changes in methods:
        key = {**setting, "steps": steps, "method": method}
        row = results.find(key, lambda changes=changes: _compiled(config, changes))
        mib[steps, method] = row["temp_mib"]
        control, single = mib[steps, "recurrent"], mib[1, "recurrent"]
        beyond = row["temp_mib"] - single
        rows.append(
            {
                **row,
                "over": control / row["temp_mib"],
                "beyond_over": (control - single) / beyond if beyond > 0 else None,
            }
        )
    return rows


def _compiled(config: Config, changes: Mapping[str, Any]) -> Row:
    """Return the temporary memory of a changed config's training step, and the time to compile."""
    pixels = config.data.batch_size, *config.data.crop
    batch = {
        "first": jax.ShapeDtypeStruct((*pixels, 3), jnp.uint8),
        "second": jax.ShapeDtypeStruct((*pixels, 3), jnp.uint8),
        "flow": jax.ShapeDtypeStruct((*pixels, 2), jnp.float32),
        "valid": jax.ShapeDtypeStruct(pixels, jnp.bool_),
    }
    return compile_step(create_experiment(override(config, changes)), batch)
