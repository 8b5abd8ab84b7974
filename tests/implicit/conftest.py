"""Run these tests with strict dtype promotion and rank promotion forbidden."""

import jax
import pytest


@pytest.fixture(autouse=True)
def no_implicit_promotion():
    """Raise where a dtype or a rank is promoted implicitly."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
