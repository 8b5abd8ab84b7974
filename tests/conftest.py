"""Fixtures of all tests, and the simulated devices of those that shard."""

import os
from pathlib import Path

import jax
import pytest

# For the processes that tests start: the project need not be installed.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
# Before anything starts the backend. Unsharded work stays on the first device, at its usual speed.
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def x64():
    """Run the test with 64-bit types enabled."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile with few optimizations, in about half the time: for what runs for a moment only."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def pytest_addoption(parser):
    """Add the size of the long fuzz test, which a machine with time to spare can raise."""
    parser.addoption("--fuzz-cases", type=int, default=2000, help="mutated files (default 2000)")
