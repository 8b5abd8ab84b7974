"""The benchmarks run, and where little is installed; what they measure is for another day."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tiny import OVERRIDES

from benchmarks import floor, problems
from benchmarks.run import BENCHMARKS, main
from mdeq_jax.layers.convolution import conv2d
from mdeq_jax.vision.config import load_config

ROOT = Path(__file__).parents[1]


def run(*command: str) -> str:
    """Stdout of Python with these arguments."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_are_of_the_dtype_of_their_config(monkeypatch):
    config = load_config("digits")
    config.dtype = "bfloat16"
    monkeypatch.setattr(problems, "load_config", lambda _: config)
    assert problems.setting("digits", 2).model.dtype == "bfloat16"


@pytest.mark.slow
def test_they_import_no_data_package():
    modules = [f"benchmarks.{name}" for name in BENCHMARKS if name not in ("peers", "loader")]
    script = (
        f"import sys, {', '.join(modules)}; from benchmarks.problems import setting; "
        "setting('digits', 2); print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    imported = run("-c", script)
    assert "'flax'" in imported
    for package in ("tensorflow_datasets", "grain", "orbax", "sklearn", "jaxopt"):
        assert f"'{package}'" not in imported


TINY = ("--config=digits", "--batch=2", "--rounds=1")
COMMANDS = (
    *((name, *TINY) for name in ("solver_overhead", "estimators", "train_step", "infer", "floor")),
    ("peers", *TINY),
    ("long_history", "--rounds=1"),
    ("largest_batch", "--config=digits", "--batch=8", "--gib=0.1"),
)
PROGRAM = """
import ast, json, sys
from benchmarks import problems
from benchmarks.run import main

commands, overrides = json.loads(sys.argv[1])
load_whole = problems.load_config


def load_narrow(name):
    config = load_whole(name)
    for key, value in overrides.items():
        section, _, field = key.partition(".")
        config[section][field] = ast.literal_eval(value)
    return config


problems.load_config = load_narrow
for command in commands:
    sys.argv = ["run", *command]
    main()
    print("end of", command[0])
"""


@pytest.fixture(scope="module")
def results():
    """By name, what is in the last line that each benchmark prints, on a narrow model.

    One process runs them all.
    """
    pytest.importorskip("optimistix")
    narrow = {key: value for key, value in OVERRIDES.items() if key.startswith("model.")}
    lines = run("-c", PROGRAM, json.dumps([COMMANDS, narrow])).splitlines()
    return {name: json.loads(lines[lines.index(f"end of {name}") - 1]) for name, *_ in COMMANDS}


@pytest.mark.slow
def test_they_end_in_a_line_of_json(results):
    for name, result in results.items():
        assert result["benchmark"] == name
        assert result["rows"]
        assert result["platform"] == "cpu"


@pytest.mark.slow
def test_long_histories_need_no_config(results):
    rows = results["long_history"]["rows"]
    assert [row["max_steps"] for row in rows] == [30, 100, 300, 1000]


@pytest.mark.slow
def test_the_largest_batch_fills_the_memory(results):
    (row,) = results["largest_batch"]["rows"]
    assert 0.97 * 0.1 < row["gib"] <= 0.1
    assert row["batch"] > 8


def test_the_floor_is_of_each_convolution_and_product():
    x, kernel, matrix = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 5)), jnp.ones((5, 3))
    function = jax.jit(lambda x: conv2d(x, kernel) @ matrix + 1)
    convolution, product = floor._costs(jax.make_jaxpr(function)(x).jaxpr)
    pixels = 2 * 8 * 8
    taps = 2 * (3 * 8 - 2) ** 2  # of all pixels, those on no padding
    assert convolution == (2 * taps * 4 * 5, 4 * (pixels * 4 + 9 * 4 * 5 + pixels * 5))
    assert product == (2 * pixels * 5 * 3, 4 * (pixels * 5 + 5 * 3 + pixels * 3))


@pytest.mark.slow
def test_the_floor_of_another_adjoint_is_refused():
    with pytest.raises(ValueError, match="cifar10_large_phantom has the adjoint 'phantom'"):
        floor.main("cifar10_large_phantom")


def test_an_option_that_a_benchmark_does_not_take_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run", "memory", "--gib=3"])
    with pytest.raises(SystemExit):
        main()
    assert "memory takes no --gib" in capsys.readouterr().err
