"""Inference on random images, with all solver steps taken."""

import functools

import jax

from benchmarks.problems import setting
from benchmarks.timing import milliseconds, report, take_turns


def main(config: str = "cifar10_tiny", batch: int = 32, rounds: int = 5) -> None:
    """Print the latency of batches of 1 and of `batch` images, at several step limits.

    Args:
      config: name of a file in configs.
      batch: number of images of the larger batch.
      rounds: number of measurements of each latency.
    """
    bench = setting(config, batch)
    solver = bench.config.solver.forward.build()
    apply = jax.jit(functools.partial(bench.model.apply, solver=solver))
    limits = sorted({1, 6, solver.max_steps})
    functions = {
        (size, limit): functools.partial(
            apply, bench.variables, bench.images[:size], step_limit=limit
        )
        for size in (1, batch)
        for limit in limits
    }
    seconds = take_turns(functions, rounds)
    rows = [
        {
            "batch": size,
            "steps": limit,
            "ms": milliseconds(times),
            "images/s": 1e3 * size / milliseconds(times),
        }
        for (size, limit), times in seconds.items()
    ]
    report("infer", rows, config=config)
