"""What holds for all tests of the comparison."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_compilation):
    """None of them is about the compiled program."""
