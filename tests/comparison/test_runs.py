"""What becomes of a run: its result is written down, read again, and never taken for another's."""

import json
import math
import shutil
from types import SimpleNamespace

import jax
import pytest
from bases import load

from mdeq_jax.comparison import report, runs
from mdeq_jax.comparison.compare import compare
from mdeq_jax.comparison.runs import Result, carry_out, last_record, read_result
from mdeq_jax.comparison.settings import Run
from mdeq_jax.training.metrics import NonFiniteError
from mdeq_jax.vision.config import override

ROW = {"eval/accuracy": 0.5, "eval/loss": 1.0, "parameters": 1234, "cosine": None}
TABLE = {
    "base": {"base": {}},
    "steps": {
        "4 steps": {"solver.forward.max_steps": 4},
        "18 steps": {"solver.forward.max_steps": 18},
    },
    "silenced": {"silenced": {}},
}


@pytest.fixture
def trainings(monkeypatch):
    """Configs that were trained, in order, by a training that takes no time."""
    seen = []

    def train(run, folder):
        seen.append(run.config)
        return {"": ROW}

    trained = SimpleNamespace(config=None, variables=None)
    monkeypatch.setattr(runs, "_train", train)
    monkeypatch.setattr(runs, "read_trained", lambda folder, finalize: trained)
    monkeypatch.setitem(runs._EXAMINE, "silenced", lambda config, variables: {"scale 0": ROW})
    monkeypatch.setattr(report, "plot_comparison", lambda points, path: None)
    return seen


@pytest.fixture
def base_run():
    return Run(load("digits"), "base/base")


def run(tmp_path, groups=("steps",), **changes):
    base = override(load("digits"), {key.replace("__", "."): v for key, v in changes.items()})
    return compare(base, tmp_path, groups, "the command", TABLE)


def test_a_result_is_read_as_it_was_written(trainings, base_run, tmp_path):
    assert read_result(base_run, tmp_path) == Result("not run yet")
    result = carry_out(base_run, tmp_path, base_run)
    assert result == Result("done", {"": ROW})
    assert read_result(base_run, tmp_path) == result
    assert [path.name for path in (tmp_path / "base/base").iterdir()] == ["result.json"]


def test_the_same_setting_is_trained_once(trainings, tmp_path):
    final = run(tmp_path)
    assert [config.solver.forward.max_steps for config in trainings] == [18, 4]
    assert (final["runs"], final["reused"], final["failed"]) == (2, 0, 0)
    written = (tmp_path / "report.md").read_text()
    assert written.count("| 1,234 |") == 3
    assert "`solver.forward.max_steps=4`" in written


def test_a_second_run_trains_nothing(trainings, tmp_path):
    run(tmp_path)
    before = (tmp_path / "report.md").read_text()
    final = run(tmp_path, train__log_every=7)
    assert len(trainings) == 2
    assert final["reused"] == 2
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
        (ModuleNotFoundError("No module named 'tfds'"), "failed", "No module named 'tfds'"),
        (jax.errors.JaxRuntimeError("Out of memory\nallocations:"), "failed", "Out of memory"),
    ],
)
def test_a_run_that_ends_badly(monkeypatch, trainings, tmp_path, error, status, message):
    well = runs._train

    def train(run, folder):
        if run.config.solver.forward.max_steps == 18:
            raise error
        return well(run, folder)

    monkeypatch.setattr(runs, "_train", train)
    final = run(tmp_path)
    assert final[status] == 1
    assert len(trainings) == 1  # the rest goes on
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert f"- base: {status}: {message}" in [line[: len(message) + 16] for line in lines]
    assert not any("allocations" in line for line in lines)
    monkeypatch.setattr(runs, "_train", well)
    assert run(tmp_path)[status] == 0  # it was tried again


def test_a_base_that_did_not_finish_is_not_examined(monkeypatch, trainings, tmp_path):
    well = runs._train

    def train(run, folder):
        raise ValueError("no such data set")

    monkeypatch.setattr(runs, "_train", train)
    final = run(tmp_path, ["silenced"])
    assert (final["failed"], final["skipped"]) == (1, 1)
    line = "- silenced: skipped: the base is not done, so there is no model yet"
    assert line in (tmp_path / "report.md").read_text()
    monkeypatch.setattr(runs, "_train", well)
    assert run(tmp_path, ["silenced"])["skipped"] == 0
    assert "| scale 0 | 50.00 |" in (tmp_path / "report.md").read_text()


def test_a_base_that_is_trained_anew_is_examined_anew(trainings, tmp_path):
    groups = ["steps", "silenced"]
    assert run(tmp_path, groups)["reused"] == 0
    assert run(tmp_path, groups)["reused"] == 3
    shutil.rmtree(tmp_path / "base/base")
    assert run(tmp_path, groups)["reused"] == 1


def test_a_signal_ends_the_comparison(monkeypatch, trainings, tmp_path):
    monkeypatch.setattr(runs, "_train", lambda run, folder: {})
    final = run(tmp_path)
    assert final["interrupted"] is True
    report = (tmp_path / "report.md").read_text()
    assert "- base: interrupted" in report
    assert "- 4 steps: not run yet" in report
    assert not (tmp_path / "steps").exists()


def test_a_workdir_that_cannot_be_written(trainings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file"):
        run(tmp_path / "file")


def test_a_config_that_never_solves(tmp_path):
    with pytest.raises(ValueError, match=r"pretrain_steps is 700, but training takes 3 steps"):
        run(tmp_path, train__steps=3)


def test_the_last_record_has_the_fastest_step_of_its_phase(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = [("unrolled", 0.1), ("solve", 9.0), ("solve", 2.0), ("solve", 3.0)]
    lines = [
        {"step": i, "train/loss": 1.0 / (i + 1), "train/phase": phase, "train/device_step_s": s}
        for i, (phase, s) in enumerate(records)
    ]
    path.write_text("".join(json.dumps(x) + "\n" for x in (*lines, {"step": 3, "eval/loss": 2.0})))
    last = last_record(path)
    assert (last["train/loss"], last["train/device_step_s"]) == (0.25, 2.0)
    path.write_text(json.dumps({"step": 3, "eval/loss": 2.0}))
    assert last_record(path) == {}
