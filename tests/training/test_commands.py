"""train.py and eval.py as a user runs them: results, resumption, and errors."""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import call, last_json, recorded_step, run, start

SHORT = {"train__steps": "60", "train__pretrain_steps": "0", "optim__learning_rate": "0.01"}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def trained(scratch) -> tuple[Path, dict]:
    """A finished run of 60 steps: its workdir and its final JSON."""
    workdir = scratch / "trained"
    code, out, err = call("train.py", scratch, f"--workdir={workdir}", "--profile", **SHORT)
    assert code == 0, err
    return workdir, last_json(out)


def interrupt(process: subprocess.Popen, workdir: Path, step: int, with_signal: int) -> str:
    """Send a signal once a run has recorded a step; what it printed on stdout."""
    while recorded_step(workdir) < step:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(with_signal)
    return process.communicate(timeout=120)[0]


def test_the_final_line_and_the_files(trained):
    workdir, final = trained
    assert final["steps"] == 60
    assert final["resumed_from_step"] == 0
    assert final["interrupted"] is False
    assert 0.2 < final["eval/accuracy"] <= 1
    assert final["eval/examples"] == 360
    assert final["eval/solver_steps"] <= 4
    assert {"eval/loss", "eval/residual", "wall_s"} <= final.keys()
    assert len(final["params_sha256"]) == 64
    assert (workdir / "solver_trace.png").stat().st_size > 10_000
    assert list((workdir / "tensorboard").iterdir())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert list(workdir.glob("profile/plugins/profile/*/*.xplane.pb"))
    last = [line for line in lines if "train/loss" in line][-1]
    assert last["train/adjoint_steps"] > 0
    assert last["train/loss"] < lines[0]["train/loss"]


def test_eval_reproduces_the_final_evaluation(trained, scratch):
    workdir, final = trained
    output = scratch / "logits.npz"
    code, out, err = call("eval.py", scratch, f"--checkpoint={workdir}", f"--output={output}")
    assert code == 0, err
    assert np.load(output)["logits"].shape == (360, 10)
    for key in ("accuracy", "loss", "solver_steps", "residual", "examples"):
        assert last_json(out)[f"eval/{key}"] == final[f"eval/{key}"], key


def test_fewer_solver_steps_in_evaluation(trained, scratch):
    workdir, final = trained
    code, out, err = call(
        "eval.py", scratch, f"--checkpoint={workdir / 'best'}", solver__forward__max_steps="2"
    )
    assert code == 0, err
    assert last_json(out)["eval/solver_steps"] <= 2
    assert last_json(out)["eval/residual"] > final["eval/residual"]


def disturbed(scratch, workdir, interruptions, **overrides) -> dict:
    """The final JSON of a run that is interrupted and started again with the same command."""
    arguments = ("train.py", scratch, f"--workdir={workdir}")
    for step, with_signal in interruptions:
        process = start(*arguments, **overrides)
        out = interrupt(process, workdir, step, with_signal)
        if with_signal == signal.SIGTERM:
            assert process.returncode == 128 + signal.SIGTERM
            assert last_json(out)["interrupted"] is True
            assert last_json(out)["steps"] >= step
    code, out, err = run(*arguments, **overrides)
    assert code == 0, err
    return last_json(out)


@pytest.mark.slow
def test_killed_and_rerun_it_ends_with_the_same_parameters(scratch):
    often = {"train__steps": "80", "train__checkpoint_seconds": "0.2"}
    _, out, _ = run("train.py", scratch, f"--workdir={scratch / 'undisturbed'}", **often)
    interruptions = [(15, signal.SIGKILL), (40, signal.SIGTERM)]
    final = disturbed(scratch, scratch / "disturbed", interruptions, **often)
    assert final["resumed_from_step"] >= 40
    assert final["params_sha256"] == last_json(out)["params_sha256"]
    assert final["eval/loss"] == last_json(out)["eval/loss"]


def test_a_workdir_of_another_config(trained, scratch):
    workdir, _ = trained
    other = SHORT | {"optim__learning_rate": "0.5"}
    code, out, err = call("train.py", scratch, f"--workdir={workdir}", **other)
    assert (code, out) == (2, "")
    assert "optim.learning_rate: 0.01 there, 0.5 here" in err
    assert "--workdir" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_run_whose_files_have_moved_is_resumed(trained, scratch):
    workdir, final = trained
    moved = {"data__dir": f"{scratch}/data/", "data__root": "elsewhere/", "init_from": "moved.pkl"}
    arguments = ("train.py", scratch, f"--workdir={workdir}")
    code, out, err = call(*arguments, **SHORT, train__on_nonfinite="skip", **moved)
    assert code == 0, err
    assert "\n2,914 parameters, 8 × cpu, step 60 of 60\n" in err
    assert last_json(out)["resumed_from_step"] == 60
    assert last_json(out)["params_sha256"] == final["params_sha256"]
    assert "resumed at step 60; config.init_from is not read again" in err


def test_a_checkpoint_of_another_architecture(trained, scratch):
    workdir, _ = trained
    code, _, err = call("eval.py", scratch, f"--checkpoint={workdir}", model__expansion="2")
    assert code == 2
    assert "config.model.expansion is 2, the checkpoint's 1" in err


@pytest.mark.slow
def test_a_loss_that_is_not_finite(scratch):
    workdir = scratch / "diverged"
    code, out, err = call(
        "train.py",
        scratch,
        f"--workdir={workdir}",
        train__steps="60",
        train__checkpoint_seconds="0",
        optim__name="sgd",
        optim__learning_rate="1e18",
    )
    assert (code, out) == (1, "")
    assert "at step" in err
    assert "last good checkpoint" in err
    assert "optim.learning_rate" in err
    assert "Traceback" not in err
    _, out, _ = call("eval.py", scratch, f"--checkpoint={workdir}")
    assert last_json(out)["steps"] >= 1


@pytest.mark.slow
def test_a_loss_that_is_not_finite_before_the_first_checkpoint(scratch):
    workdir = scratch / "diverged_at_once"
    overrides = {"optim__name": "sgd", "optim__learning_rate": "1e18"}
    _, _, err = call("train.py", scratch, f"--workdir={workdir}", train__steps="60", **overrides)
    assert "training stopped. Lower config.optim.learning_rate" in err


@pytest.mark.slow
def test_another_models_weights_to_start_from(trained, scratch):
    workdir, _ = trained
    code, out, err = call(
        "train.py",
        scratch,
        f"--workdir={scratch / 'started'}",
        init_from=str(workdir),
        model__final_channels="24",
        train__steps="1",
    )
    assert code == 0, err
    assert last_json(out)["resumed_from_step"] == 0
    assert "params/head/classifier/kernel ((16, 10) there, (24, 10) here)" in err
    assert "params/cell" not in err


@pytest.mark.slow
def test_weights_that_do_not_fill_the_cell(trained, scratch):
    workdir, _ = trained
    again = {"init_from": str(workdir), "model__expansion": "2", "train__steps": "1"}
    code, out, err = call("train.py", scratch, f"--workdir={scratch / 'unfilled'}", **again)
    assert (code, out) == (2, "")
    assert f"{workdir}, which is config.init_from, does not fill the cell of this model:" in err
    assert "params/cell/branches_0_blocks_0/conv1/v ((3, 3, 8, 8) there, (3, 3, 8, 16) here)" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        ([], {}, "--workdir must have a value"),
        (["--workdir=w"], {"model__num_groups": "3"}, "num_groups"),
        (["--workdir=w"], {"solver__forward__max_steps": "0"}, "max_steps is 0"),
        (["--workdir=w"], {"data__name": "digit"}, "Did you mean digits?"),
        (["--workdir=w"], {"model__num_classes": "7"}, "has 10 classes"),
        (["--workdir=LICENSE"], {}, "LICENSE"),
    ],
)
def test_bad_input_ends_in_one_line(scratch, flags, overrides, message):
    code, out, err = call("train.py", scratch, *flags, **overrides)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_batch_far_from_the_recipes(scratch):
    _, _, err = call("train.py", scratch, "--workdir=LICENSE", data__batch_size="16")
    assert "warning: config.data.batch_size is 16" in err
    assert "is for batches of 48" in err
    _, _, err = call("train.py", scratch, "--workdir=LICENSE")
    assert "warning" not in err


def test_evaluation_on_data_of_other_classes(scratch):
    other = {"data__name": "digit_scenes", "data__image_size": "(64, 64)"}
    code, _, err = call("eval.py", scratch, "--checkpoint=nowhere", **other)
    assert code == 2
    assert "num_classes is 10, but data set 'digit_scenes' has 11 classes" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint=nowhere"], "is not a folder"),
        (["--checkpoint=tests"], "holds no checkpoint"),
        (["--checkpoint=tests", "--output=nowhere/a.npz"], "there is no folder nowhere"),
        (["--checkpoint=tests", "--output=tests/"], "'tests/', which is no .npz file"),
    ],
)
def test_evaluation_of_what_is_not_there(scratch, flags, message):
    code, _, err = call("eval.py", scratch, *flags)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
