"""What becomes of a cell: its result is written down, read again, and never taken for another's."""

import dataclasses
import json
import math

import jax
import pytest
from bases import load

from mdeq_jax.comparison import cells, report
from mdeq_jax.comparison.cells import Result, read_result, run_cell
from mdeq_jax.comparison.measure import Cost, Measurement
from mdeq_jax.comparison.run import compare
from mdeq_jax.comparison.settings import Cell, Setting
from mdeq_jax.training.metrics import NonFiniteError
from mdeq_jax.vision.config import override
from mdeq_jax.vision.load import Trained

MEASURED = Measurement(0.5, 1.0, 7.0, Cost(0.1, 0.2, 300), 8.0, 1234, 0.9, 1.1, 1.0)
TABLE = (
    Setting("base", "base"),
    Setting("steps", "4 steps", {"solver.forward.max_steps": 4}),
    Setting("steps", "18 steps", {"solver.forward.max_steps": 18}),
    Setting("silenced", "silenced", kind="silenced"),
)


@pytest.fixture
def trainings(monkeypatch):
    """Configs that were trained, in order, by a training that takes no time."""
    seen = []

    def train(config, folder):
        seen.append(config)
        return {"interrupted": False}

    monkeypatch.setattr(cells, "train", train)
    monkeypatch.setattr(cells, "load_trained", lambda folder: Trained({}, seen[-1], 1))
    monkeypatch.setattr(cells, "measure", lambda trained, metrics: MEASURED)
    monkeypatch.setitem(cells._EXAMINATIONS, "silenced", lambda trained: (MEASURED,))
    monkeypatch.setattr(report, "plot_comparison", lambda **panels: None)
    return seen


@pytest.fixture
def cell():
    return Cell("equilibrium", load("digits"), "base/base")


def run(tmp_path, groups=("steps",), **changes):
    base = override(load("digits"), {key.replace("__", "."): v for key, v in changes.items()})
    return compare(base, tmp_path, groups, "the command", TABLE)


def test_a_result_is_read_as_it_was_written(trainings, cell, tmp_path):
    assert read_result(cell, tmp_path) == Result("not run yet")
    result = run_cell(cell, tmp_path, cell)
    assert result == Result("done", measurements=(MEASURED,), seconds=result.seconds)
    assert read_result(cell, tmp_path) == result


def test_the_same_setting_is_trained_once(trainings, tmp_path):
    final = run(tmp_path)
    assert [config.solver.forward.max_steps for config in trainings] == [18, 4]
    assert (final["cells"], final["run"], final["reused"]) == (2, 2, 0)
    written = (tmp_path / "report.md").read_text()
    assert written.count("1,234") == 3
    assert "`solver.forward.max_steps=4`" in written


def test_a_second_run_trains_nothing(trainings, tmp_path):
    run(tmp_path)
    before = (tmp_path / "report.md").read_text()
    final = run(tmp_path, train__log_every=7)
    assert len(trainings) == 2
    assert (final["run"], final["reused"]) == (0, 2)
    assert (tmp_path / "report.md").read_text() == before


@pytest.mark.parametrize(
    ("key", "there", "here"),
    [("seed", 0, 1), ("data.eval_batch_size", 120, 7), ("init_from", None, "weights.pkl")],
)
def test_another_config_is_not_silently_reused(trainings, tmp_path, key, there, here):
    run(tmp_path)
    with pytest.raises(ValueError, match=rf"{key}: {there!r} there, {here!r} here\. Use another"):
        run(tmp_path, **{key.replace(".", "__"): here})


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (NonFiniteError("loss", math.nan, 3), "failed", "loss is nan at step 3"),
        (ValueError("no such data set"), "failed", "no such data set"),
        (ModuleNotFoundError("No module", name="diffrax"), "skipped", "install diffrax"),
        (jax.errors.JaxRuntimeError("Out of memory\nallocations:"), "failed", "Out of memory"),
    ],
)
def test_a_cell_that_ends_badly(monkeypatch, trainings, tmp_path, error, status, message):
    well = cells.train

    def train(config, folder):
        if config.solver.forward.max_steps == 18:
            raise error
        return well(config, folder)

    monkeypatch.setattr(cells, "train", train)
    final = run(tmp_path)
    assert final[status] == 1
    assert len(trainings) == 1  # the rest goes on
    stored = json.loads((tmp_path / "base/base/result.json").read_text())["result"]
    assert stored["status"] == status
    assert message in stored["message"]
    assert "\n" not in stored["message"]
    assert f"- base: {status}: " in (tmp_path / "report.md").read_text()
    monkeypatch.setattr(cells, "train", well)
    assert run(tmp_path)[status] == 0  # it was tried again


def test_a_base_that_did_not_finish_is_not_examined(monkeypatch, trainings, tmp_path):
    well = cells.train

    def train(config, folder):
        raise ValueError("no such data set")

    monkeypatch.setattr(cells, "train", train)
    assert run(tmp_path, ["silenced"])["failed"] == 2
    line = "- silenced: failed: the base did not finish (failed), so there is no model to examine"
    assert line in (tmp_path / "report.md").read_text()
    monkeypatch.setattr(cells, "train", well)
    assert run(tmp_path, ["silenced"])["failed"] == 0


def test_a_base_that_is_run_anew_is_examined_anew(trainings, tmp_path):
    groups = ["steps", "silenced"]
    assert run(tmp_path, groups)["run"] == 3
    assert run(tmp_path, groups)["run"] == 0
    (tmp_path / "base/base/result.json").unlink()
    assert run(tmp_path, groups)["run"] == 2
    (tmp_path / "base/base/result.json").unlink()
    assert run(tmp_path, ["steps"])["run"] == 1
    assert run(tmp_path, ["silenced"])["run"] == 1  # though the base is done by now


def test_a_signal_ends_the_comparison(monkeypatch, trainings, tmp_path):
    monkeypatch.setattr(cells, "train", lambda config, folder: {"interrupted": True})
    final = run(tmp_path)
    assert final["interrupted"] is True
    assert "- 4 steps: not run yet" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "steps").exists()


def test_a_workdir_that_cannot_be_written(trainings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file"):
        run(tmp_path / "file")


def test_a_config_that_never_solves(tmp_path):
    with pytest.raises(ValueError, match=r"pretrain_steps is 700, but training takes 3 steps"):
        run(tmp_path, train__steps=3)


def test_an_old_result_is_whole(trainings, cell, tmp_path):
    run_cell(cell, tmp_path, cell)
    assert [path.name for path in (tmp_path / "base/base").iterdir()] == ["result.json"]
    other = dataclasses.replace(cell, kind="resnet")
    with pytest.raises(ValueError, match="kind: 'equilibrium' there, 'resnet' here"):
        read_result(other, tmp_path)
