"""Two processes with two devices each train as one process does."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import call, last_json, recorded_step, start

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("worker.py")
# Each step is recorded, for a mean over several would be of fewer after a resumption.
MORE_OFTEN = {"train__checkpoint_seconds": "0.5", "train__log_every": "1"}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def start_both(script: str, scratch: Path, *flags: str, **overrides: str):
    """Start two processes with two devices each."""
    address = (f"--coordinator={free_address()}", "--process_count=2")
    os.environ["JAX_NUM_CPU_DEVICES"] = "2"
    try:
        return [
            start(script, scratch, *flags, *address, f"--process_id={i}", **overrides)
            for i in range(2)
        ]
    finally:
        del os.environ["JAX_NUM_CPU_DEVICES"]


def finish(processes: list[subprocess.Popen]) -> dict:
    """The final JSON of process 0; the others report nothing."""
    outputs = [process.communicate(timeout=400) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
    # Their stdout is not empty: Gloo, which connects CPUs, writes there from several threads at
    # once, in lines that may break anywhere.
    assert not any("{" in out for out, _ in outputs[1:])
    assert not any("step" in err for _, err in outputs[1:])
    return last_json(outputs[0][0])


def run_both(script: str, scratch: Path, *flags: str, **overrides: str) -> dict:
    """The final JSON of two processes."""
    return finish(start_both(script, scratch, *flags, **overrides))


def finished(script: str, scratch: Path, *flags: str, **overrides: str) -> dict:
    """The final JSON of this process alone."""
    code, out, err = call(script, scratch, *flags, **overrides)
    assert code == 0, err
    return last_json(out)


def stop_at(processes: list[subprocess.Popen], workdir: Path, step: int, with_signal: int) -> None:
    """Send the last process a signal once a step is recorded, and wait until none is left."""
    while recorded_step(workdir) < step:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[-1].send_signal(with_signal)
    for process in reversed(processes):
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:  # what waits for the dead is ended by the scheduler
            process.kill()
            process.communicate()


def losses_of(workdir: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    return np.array([found[step] for step in sorted(found)])


def run_workers(scratch: Path, count: int, devices: int) -> list[dict]:
    environment = os.environ | {"JAX_ENABLE_X64": "1", "JAX_NUM_CPU_DEVICES": str(devices)}
    address = free_address()
    command = [sys.executable, WORKER, str(scratch / "data"), "8", "float64"]
    commands = [command] * count
    if count > 1:
        commands = [[*command, address, str(count), str(i)] for i, command in enumerate(commands)]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        for command in commands
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return [last_json(out) for out, _ in outputs]


def test_losses_and_data_do_not_depend_on_devices_and_processes(scratch):
    (alone,) = run_workers(scratch, 1, 1)
    (eight,) = run_workers(scratch, 1, 8)
    both = run_workers(scratch, 2, 2)
    assert (alone["devices"], eight["devices"], both[0]["devices"]) == (1, 8, 4)
    for found in (eight, *both):
        np.testing.assert_allclose(found["losses"], alone["losses"], rtol=0, atol=1e-6)
    assert np.ptp(alone["losses"]) > 0.1
    assert eight["labels"] == alone["labels"]
    shares = zip(both[0]["labels"], both[1]["labels"], strict=True)
    assert [first + second for first, second in shares] == alone["labels"]


@pytest.fixture(scope="module")
def undisturbed(scratch) -> tuple[Path, dict]:
    """A run in two processes: its workdir and its final JSON."""
    workdir = scratch / "undisturbed"
    final = run_both("train.py", scratch, f"--workdir={workdir}", train__steps="60", **MORE_OFTEN)
    return workdir, final


@pytest.fixture(scope="module")
def in_one(scratch) -> tuple[Path, dict]:
    """The same run in this process, with a checkpoint after half of it."""
    workdir = scratch / "alone"
    options = {"train__steps": "60", **MORE_OFTEN, "train__checkpoint_steps": "30"}
    return workdir, finished("train.py", scratch, f"--workdir={workdir}", **options)


def test_two_processes_end_as_one_does(undisturbed, in_one):
    workdir, final = undisturbed
    alone, one = in_one
    assert final["eval/examples"] == one["eval/examples"] == 360
    assert (final["steps"], final["resumed_from_step"]) == (60, 0)
    np.testing.assert_allclose(losses_of(workdir), losses_of(alone), rtol=0.02)
    assert (workdir / "solver_trace.png").exists()


def test_evaluation_counts_each_image_once(undisturbed, scratch):
    workdir, final = undisturbed
    found = []
    for evaluate in (run_both, finished):
        output = scratch / f"logits{len(found)}.npz"
        flags = (f"--checkpoint={workdir}", f"--output={output}")
        # A batch that does not divide the 360 images: some of it is padding.
        result = evaluate("eval.py", scratch, *flags, data__eval_batch_size="112")
        found.append((result, np.load(output)["logits"]))
    (two, logits2), (one, logits1) = found
    assert two["eval/examples"] == one["eval/examples"] == 360
    assert two["eval/accuracy"] == one["eval/accuracy"]
    assert logits2.shape == (360, 10)
    np.testing.assert_allclose(logits2, logits1, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(two["eval/loss"], final["eval/loss"], rtol=1e-4)


def test_stopped_in_two_processes_and_resumed_in_one(undisturbed, scratch):
    workdir = scratch / "stopped"
    arguments = ("train.py", scratch, f"--workdir={workdir}")
    often = {"train__steps": "60", **MORE_OFTEN}
    stop_at(start_both(*arguments, **often), workdir, 30, signal.SIGTERM)
    final = finished(*arguments, **often)
    assert final["resumed_from_step"] >= 30
    np.testing.assert_allclose(losses_of(workdir), losses_of(undisturbed[0]), rtol=0.02)


def test_resumed_in_two_processes(in_one, undisturbed, scratch):
    workdir = scratch / "continued"
    shutil.copytree(in_one[0], workdir)
    shutil.rmtree(workdir / "checkpoints/60")
    arguments = ("train.py", scratch, f"--workdir={workdir}")
    final = run_both(*arguments, train__steps="60", **MORE_OFTEN)
    assert 30 <= final["resumed_from_step"] < 60
    np.testing.assert_allclose(losses_of(workdir), losses_of(undisturbed[0]), rtol=0.02)


def test_killed_and_rerun_it_ends_with_the_same_parameters(undisturbed, scratch):
    workdir = scratch / "killed"
    arguments = ("train.py", scratch, f"--workdir={workdir}")
    often = {"train__steps": "60", **MORE_OFTEN}
    stop_at(start_both(*arguments, **often), workdir, 30, signal.SIGKILL)
    final = run_both(*arguments, **often)
    assert final["resumed_from_step"] > 0
    assert final["params_sha256"] == undisturbed[1]["params_sha256"]
