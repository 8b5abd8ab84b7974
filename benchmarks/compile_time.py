"""Time to trace a training step, to compile it, and to load it from the persistent cache."""

import tempfile
import time

import jax
from jax.experimental.compilation_cache import compilation_cache

from benchmarks.problems import setting
from benchmarks.timing import report
from benchmarks.training import training_step


def main(config: str = "cifar10_large", batch: int = 8, rounds: int = 1) -> None:
    """Print the seconds of tracing, compilation and loading.

    Args:
      config: name of a file in configs.
      batch: number of images.
      rounds: number of compilations.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # the user's, if there is one
    bench = setting(config, batch)
    step, state, images = training_step(bench, None)

    def lower():
        jax.clear_caches()  # a lowered function remembers its compilation
        return step.lower(state, images)

    rows = [{"what": "trace and lower", "s": _seconds(lower)}]
    rows += [{"what": "compile", "s": _seconds(lower().compile)} for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as cache:
        compilation_cache.reset_cache()  # the first program has fixed the cache
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        lower().compile()
        rows.append({"what": "compile from cache", "s": _seconds(lower().compile)})
    report("compile_time", rows, config=config, batch=batch)


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
