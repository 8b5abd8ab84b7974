"""The wheel: what it brings, and its commands in an environment of their own, off the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
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


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a command of an environment that has the wheel, in an empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv")
    binaries = folder / "venv" / "bin"
    install = ("--python", binaries / "python", "install", "--no-deps", wheel)
    subprocess.run([*PIP, *install], env=ENVIRONMENT, check=True)
    # The dependencies are those of the environment that the tests run in.
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "work").mkdir()

    def run(command, *arguments):
        return subprocess.run(
            [binaries / command, *map(str, arguments)],
            cwd=folder / "work",
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_what_a_plain_install_brings(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(path).decode())
    assert {"mdeq_jax/py.typed", "mdeq_jax/configs/digits.py"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mdeq_jax"}
    required = {re.split(r"[<>=;\[ ]", line)[0] for line in metadata.get_all("Requires-Dist")}
    plain = {
        re.split(r"[<>=;\[ ]", line)[0]
        for line in metadata.get_all("Requires-Dist")
        if "extra ==" not in line
    }
    assert {"jax", "jaxtyping", "flax", "optax", "grain", "matplotlib"} <= plain
    assert {"pytest", "ruff", "mkdocs-material"} <= required - plain
    assert set(metadata.get_all("Provides-Extra")) >= {"cuda", "tpu", "dev", "docs"}


def test_the_readmes_example(installed):
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    where = "print(mx.__file__, bool(result.converged.all()))"
    done = installed("python", "-c", f"{example}\n{where}")
    assert done.returncode == 0, done.stderr
    path, converged = done.stdout.split()
    assert converged == "True"
    assert "site-packages" in path
    assert not path.startswith(str(ROOT))


@pytest.mark.parametrize(
    ("command", "purpose", "flag"),
    [
        ("mdeq-train", "Train a multiscale deep equilibrium model", "--workdir"),
        ("mdeq-eval", "Evaluate a checkpoint", "--checkpoint"),
        ("mdeq-predict", "Predict images of one's own", "--input"),
        ("mdeq-import", "Import PyTorch checkpoints", "--infer"),
    ],
)
def test_help(installed, command, purpose, flag):
    shown = installed(command, "--help").stdout
    assert purpose in shown
    assert flag in shown
    assert "--config" in shown


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
