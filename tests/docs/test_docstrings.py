"""The examples in docstrings run as they stand."""

import doctest
import importlib
import shutil
from pathlib import Path

import pytest
from invoke import invoke

from mdeq_jax.commands import import_torch

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "mdeq_jax").rglob("*.py"))
WITH_EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text()]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples find where they run: a PyTorch file, and a checkpoint of the same model."""
    folder = tmp_path_factory.mktemp("examples")
    weights = shutil.copy(ROOT / "tests/fixtures/digits_tiny.pkl", folder)
    run = str(folder / "runs/digits")
    arguments = ("--config=digits", f"--input={weights}", f"--output={run}")
    assert invoke(import_torch.run, *arguments) == 0
    return folder


@pytest.mark.parametrize("name", [module_name(path) for path in WITH_EXAMPLES])
def test_examples(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
