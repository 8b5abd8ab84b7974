"""What to say when a device is out of memory, or when adjoint solves do not converge."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from mdeq_jax.training.memory import (
    Sizes,
    StepMemory,
    evaluation_memory,
    measure,
    training_memory,
)
from mdeq_jax.vision.config import Config, override

# Keys that change more than the number of images and of solver steps.
_RESIZING = {"dtype", "adjoint.steps"}


def out_of_memory(error: RuntimeError) -> str | None:
    """Return what was asked for in vain, in XLA's words, or None if the error is another."""
    line = str(error).partition("\n")[0][:300]
    return line if "RESOURCE_EXHAUSTED" in line else None


def training_advice(config: Config) -> str:
    """Return what a training step of a config takes of each device, and how to lower it."""
    devices, parts = jax.device_count(), config.train.accumulate_steps
    share = config.data.batch_size // devices
    solvers = ("forward", "backward") if config.adjoint.name == "exact" else ("forward",)
    changes = [_half_the_steps(config, solvers)]
    if share % (2 * parts) == 0:
        changes.append({"train.accumulate_steps": 2 * parts})
    elif share > parts:
        changes.append({"data.batch_size": share // parts // 2 * parts * devices})
    if config.adjoint.name == "phantom":
        changes.append({"adjoint.steps": max(1, config.adjoint.phantom().steps // 2)})
    if config.train.pretrain_steps > 0:
        changes.append({"train.num_layers": max(1, config.train.num_layers // 2)})
    said = _describe("A training step", config, devices, training_memory, changes)
    return (
        f"{said}\nA workdir with checkpoints is for its own config alone, but for"
        " data.eval_batch_size; name another --workdir."
    )


def evaluation_advice(config: Config) -> str:
    """Return what an evaluation step takes, without views, of each device, and how to lower it."""
    devices, changes = jax.device_count(), [_half_the_steps(config, ("forward",))]
    share = config.data.eval_batch_size // devices
    if share > 1:
        changes.append({"data.eval_batch_size": share // 2 * devices})
    return _describe("An evaluation step", config, devices, evaluation_memory, changes)


def prediction_advice(config: Config) -> str:
    """Return what an image of the config's size takes, predicted by itself, and how to lower it."""
    one = dataclasses.replace(config, data=dataclasses.replace(config.data, eval_batch_size=1))
    height, width = config.data.eval_image_size or config.data.image_size
    what = f"The prediction of an image of {height}×{width}, and of others in proportion,"
    return _describe(what, one, 1, evaluation_memory, [_half_the_steps(config, ("forward",))])


def adjoint_advice(config: Config) -> str:
    """Return the settings that let adjoint solves converge, or that do without them."""
    backward, jacobian = config.solver.backward, config.jacobian
    steps, tol = backward.max_steps, backward.tol
    probability, weight = max(jacobian.probability, 0.4), 2 * jacobian.weight or 1.0
    return (
        "Try one of these settings in another --workdir:\n"
        f"  --config.solver.backward.max_steps={2 * steps} (it is {steps})\n"
        f"  --config.solver.backward.tol={max(10 * tol, 1e-3):g} (it is {tol:g})\n"
        f"  --config.jacobian.probability={probability:g} --config.jacobian.weight={weight:g}, "
        "Jacobian regularisation, which shortens solves\n"
        "  --config.adjoint.name=phantom, or another gradient that solves no adjoint equation"
    )


def _half_the_steps(config: Config, solvers: tuple[str, ...]) -> dict[str, Any]:
    return {
        f"solver.{name}.max_steps": max(1, getattr(config.solver, name).max_steps // 2)
        for name in solvers
    }


def _describe(
    what: str,
    config: Config,
    devices: int,
    estimate: Callable[[Config, Sizes, int], StepMemory],
    changes: list[dict[str, Any]],
) -> str:
    """Return the memory of a step, and a line for each change with what it saves, most first."""
    sizes = measure(config)
    now = estimate(config, sizes, devices)
    if config.dtype == "float32" and jax.default_backend() != "cpu":  # which has float32 alone
        changes = [*changes, {"dtype": "bfloat16"}]
    saved = []
    for change in changes:
        with contextlib.suppress(ValueError):  # other keys may not allow it
            changed = override(config, change)
            resized = measure(changed) if _RESIZING & change.keys() else sizes
            then = estimate(changed, resized, devices)
            overrides = " ".join(f"--config.{key}={value}" for key, value in change.items())
            if then.total < now.total:
                saved.append((now.total - then.total, overrides))
    said = (
        f"{what} takes about {_show(now.total)} of a device: {_show(now.fixed)} for parameters and "
        f"the like, {_show(now.image)} for each of {now.images} images."
    )
    remedies = [f"  {_show(size)} with {overrides}" for size, overrides in sorted(saved)[::-1]]
    return "\n".join([f"{said} It takes less, by about", *remedies] if saved else [said])


def _show(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
