"""What the tests of data share."""

import pytest


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder in which data sets are prepared, once for a module."""
    return str(tmp_path_factory.mktemp("tfds"))
