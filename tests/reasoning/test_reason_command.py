"""The command `reason`: a table, figures and one line of JSON from a trained model."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from test_reasoning_experiment import TINY

from mdeq_jax.commands import reason
from mdeq_jax.reasoning import scaling
from mdeq_jax.reasoning.experiment import create_experiment
from mdeq_jax.training.checkpoints import write_checkpoint
from mdeq_jax.training.config import override
from mdeq_jax.training.weights import state_of

MAZES = override(
    TINY,
    {
        "data.task": "mazes",
        "data.size": 5,
        "solver.forward.noise": 0.01,
        "evaluation.sizes": (5,),
        "evaluation.steps": (4,),
    },
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A checkpoint with random weights."""
    folder = epath.Path(tmp_path_factory.mktemp("mazes")) / "checkpoint"
    variables = jax.jit(create_experiment(MAZES).init)(jax.random.key(0))
    write_checkpoint(folder, state_of(variables), dataclasses.asdict(MAZES), 0)
    return folder


def main(workdir, output, **changes):
    options = {"sizes": ["5"], "steps": ["2", "4"], "restarts": ["3"], "problems": 10}
    return reason.main(str(workdir), output, **{**options, **changes})


@pytest.mark.slow
def test_the_table_and_the_figures_are_written(workdir, tmp_path, capsys):
    result = main(workdir, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [(row["steps"], row["restarts"]) for row in rows] == [(2, 3), (4, 3)]
    assert rows[-1].items() <= result.items()
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert {path.stem for path in tmp_path.glob("*.png")} == {"steps", "alignment", "maze"}
    for row in rows:
        for name in ("own", "single", "majority", "vote", "any", "believed"):
            assert 0 <= row[name] <= 1
        assert row["single"] <= row["any"] + 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ["0"]}, r"--steps is \['0'\]; .*at least 1"),
        ({"restarts": ["many"]}, r"--restarts is \['many'\]; .*whole numbers"),
        ({"sizes": ["6"]}, r"evaluation\.sizes has 6: .*odd"),
        ({"problems": 1}, r"half of the problems calibrate trust"),
    ],
)
def test_what_is_wrong_is_named(workdir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        main(workdir, tmp_path, **changes)


def test_figures_of_known_attempts():
    """Three restarts, of which two agree on the right answer, and one is wrong and unsettled."""
    truth = np.array([[[1, 0]]] * 8)
    wrong = np.array([[[0, 1]]] * 8)
    attempts = scaling.Attempts(
        answers=jnp.asarray(np.stack([truth, wrong, truth], 1)[:, :, None]),
        residual=jnp.tile(jnp.array([0.1, 0.9, 0.2]), (8, 1))[..., None],
        agreement=jnp.tile(jnp.array([1.0, 0.3, 0.9]), (8, 1))[..., None],
        alignment=jnp.full((8, 1), 0.5),
    )
    figures = scaling._figures(attempts, truth, 0, 3)
    assert figures["own"] == figures["majority"] == figures["vote"] == figures["any"] == 1
    assert figures["lowest_residual"] == 1
    assert figures["single"] == pytest.approx(2 / 3)
    assert figures["residual"] == pytest.approx(0.4)
    assert figures["agreement"] == pytest.approx(0.6)
    assert figures["alignment"] == 0.5
    # Only the wrong answers of two restarts: the lowest residual is still right.
    answers = jnp.asarray(np.stack([truth, wrong, wrong], 1)[:, :, None])
    attempts = attempts._replace(answers=answers)
    figures = scaling._figures(attempts, truth, 0, 3)
    assert figures["majority"] == 0
    assert figures["lowest_residual"] == figures["vote"] == 1
