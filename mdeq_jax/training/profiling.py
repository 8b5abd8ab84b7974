"""A JAX trace of a few training steps."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from jaxtyping import PyTree

# The number of first steps that are left out because they compile, and of steps that are recorded.
LEFT_OUT, RECORDED = 10, 5


@contextlib.contextmanager
def profiling(folder: Path | None, start: int) -> Iterator[Callable[[int, PyTree], None]]:
    """Record a few steps, for TensorBoard's profiler or Perfetto.

    Args:
      folder: where the trace goes; None records nothing.
      start: steps taken before the first one of this process.

    Yields:
      ``after_step(step, outputs)``, to be called after each step with what it computes.
    """
    first, recording = start + LEFT_OUT, False

    def after_step(step: int, outputs: PyTree) -> None:
        nonlocal recording
        if step not in (first, first + RECORDED):
            return
        jax.block_until_ready(outputs)
        if step == first:
            jax.profiler.start_trace(str(folder))
        else:
            jax.profiler.stop_trace()
        recording = step == first

    try:
        yield after_step if folder is not None else lambda step, outputs: None
    finally:
        if recording:
            jax.profiler.stop_trace()
