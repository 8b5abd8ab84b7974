"""The page that builds an experiment runs as it stands, and what it says of its results holds."""

import contextlib
import re
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "experiment.md"
CODE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    names = {"__name__": "experiment"}
    with contextlib.chdir(tmp_path_factory.mktemp("page")):
        for block in CODE:
            exec(compile(block, PAGE.name, "exec"), names)
    return names


def test_it_takes_less_than_eighty_lines():
    assert len([line for line in "".join(CODE).splitlines() if line.strip()]) < 80


def test_the_memory_is_used(names):
    floor = np.sin(names["TURN"]) ** 2 / 2  # the error of the best model without a memory
    assert floor == pytest.approx(0.25)
    # At the first step of a stream nobody does better than that.
    assert floor / names["LENGTH"] < names["trained"].metrics["eval/error"] < 0.1 * floor


def test_the_loss_falls_and_solves_converge(names):
    experiment, metrics = names["Sine"](names["Config"]()), names["trained"].metrics
    variables = experiment.init(jax.random.key(0))
    batch = next(experiment.train_batches())
    initial = experiment.loss(variables, np.zeros_like(batch["y"]), batch, None)[0]
    assert initial == pytest.approx(0.5, abs=0.1)  # the variance of a sine
    assert metrics["eval/error"] < 0.1 * initial
    assert metrics["eval/converged"] > 0.99
