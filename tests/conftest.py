"""Fixtures of all tests."""

import jax
import pytest


@pytest.fixture
def x64():
    """Run the test with 64-bit types enabled."""
    with jax.enable_x64(True):
        yield
