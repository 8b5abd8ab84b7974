"""What to say when a device is out of memory: what a step takes, and what would lower it."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from mdeq_jax.config import Config, finalize
from mdeq_jax.sections import with_values
from mdeq_jax.training.memory import (
    Sizes,
    StepMemory,
    evaluation_memory,
    measure,
    training_memory,
)

Changes = dict[str, Any]


def out_of_memory(error: RuntimeError) -> str | None:
    """Return what was asked for in vain, in XLA's words, or None if the error is another."""
    line = str(error).partition("\n")[0][:300]
    return line if "RESOURCE_EXHAUSTED" in line else None


def training_advice(config: Config) -> str:
    """Return what a training step of a config takes of each device, and how to lower it."""
    share = config.data.batch_size // jax.device_count()
    parts = config.train.accumulate_steps
    changes = [_half_the_steps(config, ("forward", "backward"))]
    if share % (2 * parts) == 0:
        changes.append({"train.accumulate_steps": 2 * parts})
    elif share > parts:
        half = share // parts // 2 * parts
        changes.append({"data.batch_size": half * jax.device_count()})
    return (
        _describe("training", config, training_memory, changes)
        + "\nA workdir with checkpoints goes on with its own config alone; name another --workdir."
    )


def evaluation_advice(config: Config) -> str:
    """Return what a step of evaluation of a config takes of each device, and how to lower it."""
    changes = [_half_the_steps(config, ("forward",))]
    share = config.data.eval_batch_size // jax.device_count()
    if share > 1:
        changes.append({"data.eval_batch_size": share // 2 * jax.device_count()})
    return _describe("evaluation", config, evaluation_memory, changes)


def _half_the_steps(config: Config, solvers: tuple[str, ...]) -> Changes:
    return {
        f"solver.{name}.max_steps": max(1, getattr(config.solver, name).max_steps // 2)
        for name in solvers
    }


def _describe(
    kind: str,
    config: Config,
    estimate: Callable[[Config, Sizes, int], StepMemory],
    changes: list[Changes],
) -> str:
    """Return the memory of a step, and a line for each change with what it saves, most first."""
    devices, sizes = jax.device_count(), measure(config)
    now = estimate(config, sizes, devices)
    if config.dtype == "float32" and jax.default_backend() != "cpu":  # which has float32 alone
        changes = [*changes, {"dtype": "bfloat16"}]
    saved = []
    for change in changes:
        with contextlib.suppress(ValueError):  # other keys may not allow it
            changed = finalize(with_values(dataclasses.asdict(config), change))
            then = estimate(changed, measure(changed) if "dtype" in change else sizes, devices)
            overrides = " ".join(f"--config.{key}={value}" for key, value in change.items())
            saved.append((now.total - then.total, overrides))
    return "\n".join(
        [
            f"A step of {kind} takes about {_show(now.total)} of a device: {_show(now.fixed)} for "
            f"parameters and the like, {_show(now.image)} for each of {now.images} images. It "
            "takes less, by about",
            *(f"  {_show(size)} with {overrides}" for size, overrides in sorted(saved)[::-1]),
        ]
    )


def _show(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
