"""What goes wrong in days of training: kills, a full disk, lost data, steps that are not finite."""

import resource
import time

import pytest
from fault_campaign import campaign
from test_data_commands import SHORT, write_folder
from tiny import call, last_json, recorded_step, run, start

pytestmark = pytest.mark.slow


def test_kills_at_random_times_and_during_saves(tmp_path):
    report = campaign(tmp_path, kills=12)
    assert report["kills_during_a_save"] > 0
    assert report["nothing_lost"]
    assert report["same_end"]
    assert report["same_record"]


def test_a_full_disk(tmp_path):
    """From some moment on, files may hold 20 kB: enough for some of a checkpoint's, not for all."""
    workdir = tmp_path / "run"
    arguments = ("train.py", tmp_path, f"--workdir={workdir}")
    steps = {"train__steps": "400", "train__checkpoint_steps": "10"}
    process = start(*arguments, **steps)
    while not list(workdir.glob("checkpoints/[0-9]*0")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    message = err[err.rindex("error: ") :]
    assert "a checkpoint cannot be written in" in message
    assert "run the same command again" in message
    code, out, err = run(*arguments, **steps)
    assert code == 0, err
    assert last_json(out)["resumed_from_step"] >= 10


def test_a_data_folder_that_vanishes(tmp_path):
    own, away = tmp_path / "own", tmp_path / "away"
    write_folder(own)
    options = {**SHORT, "data__name": "folder", "data__root": str(own), "model__num_classes": "3"}
    options |= {"train__steps": "60", "train__checkpoint_seconds": "1000"}

    lost = tmp_path / "lost"
    imagenet = {"config": "imagenet_small"}
    process = start("train.py", tmp_path, f"--workdir={lost}", **imagenet, **options)
    while recorded_step(lost) < 10:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    own.rename(away)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert f"{own}/train" in err[err.rindex("error: ") :]
    away.rename(own)
    code, out, err = run("train.py", tmp_path, f"--workdir={lost}", **imagenet, **options)
    assert code == 0, err
    assert 10 <= last_json(out)["resumed_from_step"] < 60


def test_steps_that_are_not_finite_are_skipped_up_to_a_bound(tmp_path):
    code, out, err = call(
        "train.py",
        tmp_path,
        f"--workdir={tmp_path / 'run'}",
        train__steps="60",
        train__checkpoint_steps="1",
        train__on_nonfinite="skip",
        train__max_skipped="3",
        optim__name="sgd",
        optim__learning_rate="1e18",
    )
    assert (code, out) == (1, "")
    assert err.count("the step is skipped") == 3
    assert "train.max_skipped" in err
    assert "last good checkpoint" in err
