"""The largest batch whose training step fits on a device, to within about 3 %.

The memory of the compiled step grows almost linearly with the batch, so that two compilations tell
how many images fit. A step then runs on that many images, or on fewer if something beside the
program takes memory.
"""

from typing import Any, NamedTuple

import jax

from benchmarks.problems import setting
from benchmarks.timing import report
from benchmarks.training import training_step
from mdeq_jax.training.advice import out_of_memory

_GIB = 2**30
_SHRINK = 0.97  # factor of the size of a batch that did not fit


def main(config: str = "cifar10_tiny", batch: int = 32, gib: float | None = None) -> None:
    """Print the largest batch, and the memory and time of its step.

    Args:
      config: name of a file in configs.
      batch: number of images of the first compilation; the second has twice as many.
      gib: memory of the device, GiB; None asks the device, but a CPU does not tell it.

    Raises:
      ValueError: the memory is neither given nor told by the device, or there is too little.
    """
    if (limit := _limit(gib)) is None:
        raise ValueError("This device does not tell its memory; give it by --gib.")
    few, many = (_bytes(_compile(config, images)) for images in (batch, 2 * batch))
    per_image = (many - few) / batch
    largest = int((limit - few) / per_image) + batch
    while largest > 0 and not _fits(program := _compile(config, largest), limit):
        largest = int(largest * _SHRINK)
    if largest <= 0:
        raise ValueError(f"Not one image fits in {limit / _GIB:.3g} GiB.")
    row = {
        "batch": largest,
        "gib": _bytes(program) / _GIB,
        "mib_per_image": per_image / 2**20,
        "mib_beside": (few - batch * per_image) / 2**20,
    }
    report("largest_batch", [row], config=config, limit_gib=limit / _GIB)


def _limit(gib: float | None) -> float | None:
    if gib is not None:
        return gib * _GIB
    statistics = jax.devices()[0].memory_stats()
    return None if statistics is None else statistics["bytes_limit"]


class _Program(NamedTuple):
    compiled: Any
    state: Any
    images: Any


def _compile(config: str, batch: int) -> _Program:
    step, state, images = training_step(setting(config, batch), None)
    lowered = step.lower(state, images)  # pyright: ignore[reportFunctionMemberAccess]
    return _Program(lowered.compile(), state, images)


def _bytes(program: _Program) -> int:
    """Return the bytes of the compiled step, its state and its images."""
    sizes = program.compiled.memory_analysis()
    # Most results reuse the memory of arguments.
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + results


def _fits(program: _Program, limit: float) -> bool:
    if _bytes(program) > limit:
        return False
    try:
        jax.block_until_ready(program.compiled(program.state, program.images))
    except jax.errors.JaxRuntimeError as error:
        if out_of_memory(error) is None:
            raise
        return False
    return True
