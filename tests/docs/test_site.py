"""The documentation's site: it builds without a warning, needs no network, and is complete."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mdeq_jax as mx
from mdeq_jax import config

ROOT = Path(__file__).parents[2]
REFERENCE = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))


def test_every_public_name_is_in_the_reference():
    documented = set(re.findall(r"^::: mdeq_jax\.[\w.]*?(\w+)$", REFERENCE, re.M))
    sections = {name for name in config.__all__ if name.endswith("Config")}
    assert {*mx.__all__, *sections} - documented == set()


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
