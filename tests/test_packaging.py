"""The wheel: what it brings, and its commands in an environment of their own, off the checkout."""

import collections
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from tiny import OVERRIDES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", *ROOT.glob("requirements*.txt"))
PIP = (sys.executable, "-m", "pip", "--quiet")
# Without the checkout on the path.
ENVIRONMENT = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, for building leaves folders behind that the next build would pick up."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in ("mdeq_jax", "configs"):
        shutil.copytree(ROOT / package, source / package)
    for file in FILES:
        shutil.copy(ROOT / file, source)
    subprocess.run([*PIP, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    (path,) = folder.glob("mdeq_jax-*.whl")
    return path


def runner(folder):
    """A function that runs a command of an environment in an empty folder."""
    (folder / "work").mkdir()

    def run(command, *arguments):
        return subprocess.run(
            [folder / "venv" / "bin" / command, *map(str, arguments)],
            cwd=folder / "work",
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a command of an environment that has the wheel, and all that requirements.txt names."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv")
    install = ("--python", folder / "venv/bin/python", "install", "--no-deps", wheel)
    subprocess.run([*PIP, *install], env=ENVIRONMENT, check=True)
    # The dependencies are those of the environment that the tests run in.
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return runner(folder)


@pytest.fixture(scope="module")
def plain(wheel, tmp_path_factory):
    """Runs a command of an empty environment into which pip has installed the wheel alone."""
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder / "venv")
    install = ("--python", folder / "venv/bin/python", "install", wheel)
    subprocess.run([*PIP, *install], env=ENVIRONMENT, check=True)
    return runner(folder)


def test_what_a_plain_install_brings(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(path).decode())
    assert {"mdeq_jax/py.typed", "mdeq_jax/configs/digits.py"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mdeq_jax"}
    required = collections.defaultdict(set)
    for line in metadata.get_all("Requires-Dist"):
        extra = re.search(r'extra == "(\w+)"', line)
        required[extra and extra[1]].add(re.split(r"[<>=;\[ ]", line)[0])
    assert required[None] == {"jax", "jaxtyping", "numpy"}
    assert {"flax", "optax", "orbax-checkpoint", "grain", "absl-py"} <= required["train"]
    assert required["viz"] == {"matplotlib", "pillow"}
    assert required["train"] | required["viz"] < required["vision"]
    assert {"flow-vis", "scipy", "opencv-python-headless", "scikit-learn"} < required["flow"]
    assert required["train"] | required["viz"] < required["flow"]
    assert "tensorflow-datasets" not in required["flow"]
    assert not required["train"] & {"opencv-python-headless", "tensorflow-datasets", "matplotlib"}
    assert required["vision"] | required["flow"] | {"pytest", "ruff"} < required["dev"]
    assert "mkdocs-material" in required["docs"]
    assert set(metadata.get_all("Provides-Extra")) == {
        *("train", "flow", "inverse", "reasoning", "vision", "viz"),
        *("cuda", "tpu", "dev", "docs", "prepare"),
    }


EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


def test_the_readmes_example_in_an_empty_environment(plain):
    """The layer runs from the installed package."""
    where = "print(mx.__file__, bool(result.converged.all()))"
    done = plain("python", "-c", f"{EXAMPLE}\n{where}")
    assert done.returncode == 0, done.stderr
    path, converged = done.stdout.split()
    assert converged == "True"
    assert "site-packages" in path
    assert not path.startswith(str(ROOT))
    absent = "import importlib.util as u; print(*filter(u.find_spec, ('flax', 'optax', 'absl')))"
    assert plain("python", "-c", absent).stdout.split() == []


@pytest.mark.parametrize(
    "code", ["import mdeq_jax as mx; mx.load", "import mdeq_jax.commands.eval"]
)
def test_what_an_empty_environment_lacks(plain, code):
    done = plain("python", "-c", code)
    assert done.returncode == 1
    assert 'pip install "mdeq_jax[vision]"' in done.stderr.splitlines()[-1]


def test_help(installed):
    shown = installed("mdeq-predict", "--help").stdout
    assert "Predict your own images" in shown
    assert "--input" in shown
    assert "--config" in shown


def test_every_command_has_a_function(installed):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    code = """
from importlib.metadata import distribution
points = distribution("mdeq_jax").entry_points.select(group="console_scripts")
print(*(point.name for point in points if callable(point.load())))
"""
    done = installed("python", "-c", code)
    assert sorted(done.stdout.split()) == sorted(scripts), done.stderr


def test_the_commands_train_evaluate_and_import(installed, tmp_path):
    overrides = {**OVERRIDES, "data.dir": tmp_path / "data", "train.steps": 2}
    keys = [f"--config.{key}={value}" for key, value in overrides.items()]
    run = tmp_path / "run"
    trained = installed("mdeq-train", "--config", "digits", f"--workdir={run}", *keys)
    assert json.loads(trained.stdout)["steps"] == 2, trained.stderr
    evaluated = installed("mdeq-eval", "--config=digits", f"--checkpoint={run}", *keys)
    assert json.loads(evaluated.stdout)["eval/examples"] == 360, evaluated.stderr
    weights, imported = ROOT / "tests/fixtures/digits_tiny.pkl", tmp_path / "imported"
    done = installed("mdeq-import", "--config=digits", "--input", weights, "--output", imported)
    assert "wrote" in done.stdout, done.stderr


def test_a_config_that_starts_from_another(installed):
    done = installed("python", "-m", "mdeq_jax.commands.summary", "--config", "imagenet_small_reg")
    assert json.loads(done.stdout.splitlines()[-1])["parameters"] == 18_613_496, done.stderr
