"""A model that compiles and trains in seconds, and the commands run on it as a user runs them."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from invoke import invoke

from mdeq_jax.commands import eval as evaluation
from mdeq_jax.commands import predict, train

ROOT = Path(__file__).parents[2]

OVERRIDES = {
    "model.branch_channels": "(8,)",
    "model.blocks_per_branch": "(1,)",
    "model.big_kernels": "(0,)",
    "model.head_channels": "(4,)",
    "model.final_channels": "16",
    "model.num_groups": "4",
    "model.expansion": "1",
    "model.dropout": "0.1",
    "solver.forward.max_steps": "4",
    "solver.backward.max_steps": "4",
    "data.batch_size": "32",
    "train.num_layers": "2",
    "train.pretrain_steps": "20",
    "train.log_every": "5",
}


def start(
    script: str, scratch: Path, *flags: str, config: str = "digits", **overrides: str
) -> subprocess.Popen[str]:
    """Start train.py or eval.py on the tiny digits model, or on that of another config made tiny.

    Args:
      script: name of the script.
      scratch: folder for the data set and for compiled code, which later processes use again.
      flags: further arguments.
      config: name of the config.
      overrides: of the config, with __ for a dot; they come after those of the tiny model.
    """
    command = [sys.executable, script, *_arguments(scratch, flags, config, overrides)]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def _arguments(scratch, flags, config, overrides) -> list[str]:
    keys = OVERRIDES | {"data.dir": str(scratch / "data")}
    keys |= {key.replace("__", "."): value for key, value in overrides.items()}
    options = [f"--config.{key}={value}" for key, value in keys.items()]
    return [f"--config=configs/{config}.py", *flags, *options]


def run(
    script: str, scratch: Path, *flags: str, config: str = "digits", **overrides: str
) -> tuple[int, str, str]:
    """Run a script to its end; exit code, stdout and stderr."""
    process = start(script, scratch, *flags, config=config, **overrides)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def call(
    script: str, scratch: Path, *flags: str, config: str = "digits", **overrides: str
) -> tuple[int, str, str]:
    """As `run`, but in this process and so on all its devices; a process takes seconds to start."""
    command = {"train.py": train, "eval.py": evaluation, "predict": predict}[script]
    arguments = _arguments(scratch, flags, config, overrides)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(ROOT))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        # So that no compiled program is stored in the user's cache folder.
        stack.enter_context(mock.patch.dict(os.environ, JAX_COMPILATION_CACHE_DIR="unused"))
        code = invoke(command.run, *arguments)
    return code, out.getvalue(), err.getvalue()


def last_json(out: str) -> dict:
    """The JSON object on the last line."""
    return json.loads(out.splitlines()[-1])


def recorded_step(workdir: Path) -> int:
    """The last step whose metrics a run has written to the end of their line."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0
