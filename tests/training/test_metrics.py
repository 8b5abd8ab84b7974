"""Metrics on the host."""

import json
import math
import re
import time
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from mdeq_jax.training.advice import adjoint_advice
from mdeq_jax.training.metrics import MetricBuffer, NonFiniteError, Recorder, to_json
from mdeq_jax.vision.config import Config, override

GOOD = {"loss": jnp.float32(2.0), "grad_norm": jnp.float32(1.0)}
SHOWN = {"loss": 1.0, "accuracy": 0.5, "solver_steps": 9.0, "adjoint_steps": 8.0, "residual": 1e-3}
SHOWN |= {"data_wait_s": 0.25}


def recorder_in(workdir, resumed_from=0, *, sample="image", adjoint_advice=""):
    return Recorder(
        workdir,
        resumed_from,
        total_steps=100,
        batch_size=8,
        sample=sample,
        progress={"accuracy": ".2%"},
        adjoint_advice=adjoint_advice,
    )


def test_mean_over_the_steps_since_the_last():
    buffer = MetricBuffer()
    buffer.add(1, GOOD)
    buffer.add(2, {**GOOD, "loss": jnp.float32(4.0)})
    assert buffer.mean() == {"loss": 3.0, "grad_norm": 1.0}
    buffer.add(3, GOOD)
    assert buffer.mean()["loss"] == 2.0


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_found_one_step_later(name, value):
    buffer = MetricBuffer()
    buffer.add(7, {**GOOD, name: jnp.float32(value)})
    with pytest.raises(NonFiniteError, match=f"{name} is {value} at step 7") as error:
        buffer.add(8, GOOD)
    assert error.value.step == 7


def test_a_check_finds_it_at_once():
    buffer = MetricBuffer()
    buffer.add(7, {**GOOD, "loss": jnp.float32(math.nan)})
    with pytest.raises(NonFiniteError):
        buffer.check()


def test_as_many_steps_in_a_row_as_allowed_are_skipped(capsys):
    buffer, broken = MetricBuffer(max_skipped=2), {**GOOD, "loss": jnp.float32(math.nan)}
    for step, metrics in enumerate([broken, broken, GOOD, broken, broken], start=1):
        buffer.add(step, metrics)
    assert buffer.mean()["loss"] == 2.0
    assert buffer.mean() == {}
    assert capsys.readouterr().err.count("the step is skipped") == 4
    buffer.add(6, broken)
    with pytest.raises(NonFiniteError, match=r"loss is nan at step 6, after 2 steps .*max_skipped"):
        buffer.check()


def test_numbers_that_json_has_not_become_null():
    line = to_json({"a": math.nan, "b": -math.inf, "c": 1.5, "d": 3, "e": "text", "f": True})
    assert json.loads(line) == {"a": None, "b": None, "c": 1.5, "d": 3, "e": "text", "f": True}


def test_tensorboard_gets_no_number_that_is_not_finite(tmp_path, caplog):
    recorder = recorder_in(tmp_path)
    recorder.evaluation(10, {"eval/iou/bus": math.nan, "eval/miou": 0.5})
    recorder.close()
    assert not caplog.records
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 10, "eval/iou/bus": None, "eval/miou": 0.5}


def record(workdir, resumed_from, steps):
    recorder = recorder_in(workdir, resumed_from)
    for step in steps:
        recorder.train(step, SHOWN, "solve")
    recorder.close()
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_evaluation_is_not_the_time_of_a_step(tmp_path, monkeypatch):
    now = iter([0.0, 110.0])  # of which the evaluation takes 100
    clock = {"monotonic": now.__next__, "strftime": time.strftime, "gmtime": time.gmtime}
    monkeypatch.setattr("mdeq_jax.training.metrics.time", SimpleNamespace(**clock))
    recorder = recorder_in(tmp_path)
    recorder.evaluation(10, {"eval/accuracy": 0.5}, seconds=100.0)
    recorder.train(20, SHOWN, "solve")
    recorder.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["train/steps_per_s"] == 2.0


def warnings(workdir, capsys, shares, advice=""):
    """What is said while these shares of the adjoint solves converge, one interval after another.

    A share of None is that of a gradient which solves no adjoint equation.
    """
    recorder = recorder_in(workdir, adjoint_advice=advice)
    for step, share in enumerate(shares, start=1):
        shown = SHOWN if share is None else SHOWN | {"adjoint_converged": share}
        recorder.train(step, shown, "solve")
    recorder.close()
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]


def test_adjoint_solves_that_mostly_fail_are_told_once(tmp_path, capsys):
    told = warnings(tmp_path, capsys, [None, 1.0, 0.25, 0.75, 0.0], advice="Take more steps.")
    assert len(told) == 1
    assert "adjoint_converged is 25% at step 3" in told[0]
    assert told[0].endswith("Take more steps.")


@pytest.mark.parametrize("share", [None, 0.5, 1.0])
def test_adjoint_solves_that_mostly_converge_are_not_told(share, tmp_path, capsys):
    assert warnings(tmp_path, capsys, [share] * 3) == []


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"solver.backward.tol": 0.0},
        {"jacobian.probability": 0.9, "jacobian.weight": 2.0},
        {"adjoint.name": "exact", "solver.backward.max_steps": 1},
    ],
)
def test_each_remedy_can_be_set_and_changes_the_config(overrides):
    config = override(Config(), overrides)
    lines = [line for line in adjoint_advice(config).splitlines() if "--config." in line]
    assert len(lines) == 4
    for line in lines:
        remedy = re.findall(r"--config\.([\w.]+)=([\w.+-]+)", line)
        changes = {key: json.loads(v) if v[0].isdigit() else v for key, v in remedy}
        assert override(config, changes) != config


def test_a_resumed_run_forgets_what_lay_past_its_checkpoint(tmp_path, capsys):
    record(tmp_path, 0, [10, 20, 30])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "train/lo')  # killed in the middle of a line
    lines = record(tmp_path, 20, [25])
    assert [line["step"] for line in lines] == [10, 20, 25]
    assert lines[0]["train/loss"] == 1.0
    assert lines[0]["train/phase"] == "solve"
    assert list((tmp_path / "tensorboard").iterdir())
    speed = lines[-1]["train/steps_per_s"]
    assert lines[-1]["train/images_per_s"] == pytest.approx(8 * speed)
    assert lines[-1]["train/device_step_s"] == pytest.approx(1 / speed - 0.25)
    progress = capsys.readouterr().err
    for shown in (
        "step 25/100",
        "loss 1.0000",
        "accuracy 50.00%",
        "steps/s",
        "images/s",
        "data 250 ms",
        "9.0 forward",
        "ETA",
    ):
        assert shown in progress


def test_progress_of_another_application(tmp_path, capsys):
    recorder = recorder_in(tmp_path, sample="token")
    without_solver = {"loss": 1.0, "accuracy": 0.5, "data_wait_s": 0.25}
    recorder.train(10, without_solver, "solve")
    recorder.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["train/tokens_per_s"] == pytest.approx(8 * line["train/steps_per_s"])
    progress = capsys.readouterr().err
    assert "tokens/s" in progress
    assert "solver steps" not in progress
