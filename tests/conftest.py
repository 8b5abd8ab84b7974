"""Fixtures of all tests, and the simulated devices of those that shard."""

import jax
import pytest

# Before anything starts the backend. Unsharded work stays on the first device, at its usual speed.
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def x64():
    """Run the test with 64-bit types enabled."""
    with jax.enable_x64(True):
        yield
