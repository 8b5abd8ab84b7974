"""The tests of solvers promote no dtypes and no ranks implicitly."""

import jax
import pytest


@pytest.fixture(autouse=True)
def no_implicit_promotion():
    """Raise where a dtype or a rank is promoted implicitly, as some projects ask of all code."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
