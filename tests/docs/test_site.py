"""The documentation's site: it builds without a warning, needs no network, and is complete."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mdeq_jax as mx

ROOT = Path(__file__).parents[2]
REFERENCE = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))


def public_names():
    """(package, name) of every name in an `__all__`, of mdeq_jax and of its packages."""
    inner = pkgutil.walk_packages(mx.__path__, "mdeq_jax.")
    for package in ("mdeq_jax", *(module.name for module in inner if module.ispkg)):
        for name in getattr(importlib.import_module(package), "__all__", ()):
            yield package, name


def test_every_public_name_is_in_the_reference():
    documented = set(re.findall(r"^::: mdeq_jax\.[\w.]*?(\w+)$", REFERENCE, re.M))
    names = list(public_names())
    assert ("mdeq_jax", "solve") in names
    assert ("mdeq_jax.vision.data", "dataset_info") in names
    assert [f"{package}.{name}" for package, name in names if name not in documented] == []


def test_every_public_class_and_function_has_a_docstring():
    things = {name: getattr(importlib.import_module(at), name) for at, name in public_names()}
    for name, thing in things.items():
        # Where a dataclass or a named tuple has none, Python puts its signature.
        if callable(thing):
            assert thing.__doc__, name
            assert not thing.__doc__.startswith(f"{name}("), name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="(http[^"]*)', text)
        assert loaded == [], page.name


@pytest.mark.slow
def test_formulas_are_drawn_by_the_browser_alone(site):
    text = (site / "how_it_works.html").read_text()
    formulas = len(re.findall(r"\\[(\[]", (ROOT / "docs" / "how_it_works.md").read_text()))
    assert text.count("<math") == formulas > 40
    assert "\\frac" not in text


@pytest.mark.slow
def test_results_are_those_of_the_benchmarks(site):
    assert "Compilation and start" in (site / "results.html").read_text()
