"""How commands compile."""

import os

import jax
import pytest

from mdeq_jax.runtime import compilation

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
    compilation.keep_compiled_programs()
    assert jax.config.values[_OPTION] == str(no_cache / "mdeq_jax/compiled")


def test_a_folder_of_the_users_choice_comes_first(no_cache, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    before = jax.config.values[_OPTION]
    compilation.keep_compiled_programs()
    assert jax.config.values[_OPTION] == before


def test_flags_of_the_users_have_the_last_word(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--of_the_user")
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    compilation.convolve_on_all_cores()
    ours, users = os.environ["XLA_FLAGS"].split()
    assert ours.startswith("--xla_cpu")
    assert users == "--of_the_user"


@pytest.mark.parametrize("version", [(0, 9, 1), (0, 12, 1)])
def test_untried_versions_of_jax_get_no_flags(monkeypatch, version):
    monkeypatch.setenv("XLA_FLAGS", "--of_the_user")
    monkeypatch.setattr(jax, "__version_info__", version)
    compilation.convolve_on_all_cores()
    assert os.environ["XLA_FLAGS"] == "--of_the_user"
