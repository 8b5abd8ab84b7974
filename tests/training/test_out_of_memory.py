"""What a command says when a device is out of memory."""

import re
import subprocess
import sys

import jax
import pytest
from tiny import OVERRIDES, ROOT

from mdeq_jax.commands import cli
from mdeq_jax.training.advice import MEMORY_REMEDIES, out_of_memory
from mdeq_jax.training.sections import keys
from mdeq_jax.vision.config import Config


def test_each_remedy_is_a_key_of_the_config():
    named = re.findall(r"--config\.([\w.]+\w)", MEMORY_REMEDIES)
    assert len(named) == len(set(named)) == 10
    assert set(named) <= set(keys(Config()))


def raise_in_command(message):
    def command():
        raise jax.errors.JaxRuntimeError(message)

    return command


def test_a_command_out_of_memory_ends_in_advice(capsys):
    asked = "RESOURCE_EXHAUSTED: Out of memory allocating 198740043664 bytes."
    with pytest.raises(SystemExit) as ended:
        cli._carry_out(raise_in_command(f"{asked}\nstack"))
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said == f"error: a device is out of memory: {asked}\n{MEMORY_REMEDIES}\n"


def test_another_error_of_the_runtime_is_left_as_it_is():
    error = jax.errors.JaxRuntimeError("INTERNAL: no idea")
    assert out_of_memory(error) is None
    with pytest.raises(jax.errors.JaxRuntimeError, match="no idea"):
        cli._carry_out(raise_in_command("INTERNAL: no idea"))


@pytest.mark.slow
def test_a_run_out_of_memory(tmp_path):
    overridden = OVERRIDES | {
        "data.dir": tmp_path / "data",
        "data.batch_size": 1436,
        "solver.forward.max_steps": 40_000,
        "train.pretrain_steps": 0,
    }
    overrides = " ".join(f'"--config.{key}={value}"' for key, value in overridden.items())
    command = f"train.py --config digits --workdir {tmp_path / 'run'} {overrides}"
    limited = f"ulimit -v 12000000; {sys.executable} {command}"  # KiB
    done = subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "error: a device is out of memory: RESOURCE_EXHAUSTED: " in done.stderr
    assert MEMORY_REMEDIES in done.stderr
    assert "Traceback" not in done.stderr
