"""Where commands keep what they compile."""

import jax
import pytest

from mdeq_jax import cli

_OPTION = "jax_compilation_cache_dir"


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    """A cache folder of the user's that is empty."""
    before = jax.config.values[_OPTION]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    jax.config.update(_OPTION, before)


def test_programs_are_kept_in_the_users_cache(no_cache):
    cli.keep_compiled_programs()
    assert jax.config.values[_OPTION] == str(no_cache / "mdeq_jax/compiled")


def test_a_folder_of_the_users_choice_comes_first(no_cache, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    before = jax.config.values[_OPTION]
    cli.keep_compiled_programs()
    assert jax.config.values[_OPTION] == before
