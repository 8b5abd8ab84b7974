"""Fixtures of all tests, and the simulated devices of those that shard."""

import gc
import os
from pathlib import Path

import jax
import pytest

# For the processes that tests start: the project need not be installed.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
# Before anything starts the backend. Unsharded work stays on the first device, at its usual speed.
jax.config.update("jax_num_cpu_devices", 8)
# Most of a test is tracing and lowering. A seventh of that goes into frequent garbage collections
# and into a Python traceback for every operation of a program, which are of no use here.
gc.set_threshold(100_000, 50, 1000)
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
jax.config.update("jax_traceback_in_locations_limit", 0)


@pytest.fixture
def x64():
    """Run the test with 64-bit types enabled."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def optimized():
    """Optimize, for modules about a program's memory or collectives; XLA_FLAGS cannot change."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def pytest_addoption(parser):
    """Add the size of the long fuzz test, and the choice to compile as users do."""
    parser.addoption("--fuzz-cases", type=int, default=200, help="mutated files (default 200)")
    parser.addoption(
        "--optimized", action="store_true", help="compile with all optimizations, as users do"
    )


def pytest_configure(config):
    """Compile in half the time what runs for a moment only, in processes of tests as well."""
    if config.getoption("--optimized"):
        return
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    # Emitting loops without MLIR is the larger part of it. Unknown flags end the process, and other
    # versions may not know this one.
    if jax.__version_info__[:2] == (0, 10):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {flags}"
