"""A run of the comparison, and the file with its result, from which a comparison resumes."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from mdeq_jax.applications import create_experiment
from mdeq_jax.comparison.measure import Row, latency, measure_gradient, silenced_scales
from mdeq_jax.comparison.settings import Run
from mdeq_jax.training.loop import train
from mdeq_jax.training.metrics import NonFiniteError
from mdeq_jax.training.weights import read_trained
from mdeq_jax.training.workdir import config_differences, replace_text
from mdeq_jax.vision.config import finalize

_FILE = "result.json"
_EXAMINE = {"silenced": silenced_scales, "latency": latency}
# Keys that may change when a run is resumed, but that change the measurements of a finished run.
_MEASURED = (
    "data.eval_batch_size",
    "data.eval_image_size",
    "inference",
    "init_from",
    "init_from_allow_missing",
)


class Result(NamedTuple):
    """The result of a run.

    Attributes:
      status: "done", "failed", "skipped", "interrupted" or "not run yet". An examination is skipped
        if the base has not finished. When the comparison is run again, it repeats every run that is
        not "done".
      rows: metrics by the name of the row, which is "" for a training.
      message: why the run failed or was skipped.
    """

    status: Literal["not run yet", "interrupted", "done", "failed", "skipped"]
    rows: Mapping[str, Row] = {}
    message: str = ""


def carry_out(run: Run, workdir: Path, base: Run) -> Result:
    """Return the result of a run, which continues where it was interrupted.

    Args:
      run: the run.
      workdir: the folder of the comparison.
      base: the run whose model is examined.
    """
    try:
        if not run.examination:
            rows = _train(run, workdir / run.folder)
        elif read_result(base, workdir).status == "done":
            trained = read_trained(workdir / base.folder, finalize)
            rows = _EXAMINE[run.examination](trained.config, trained.variables)
        else:
            return Result("skipped", message="the base is not done, so there is no model yet")
    except (ValueError, NonFiniteError, ModuleNotFoundError) as error:
        return Result("failed", message=str(error))
    except jax.errors.JaxRuntimeError as error:  # the message goes on for pages
        return Result("failed", message=str(error).partition("\n")[0])
    if not rows:
        return Result("interrupted")
    path = workdir / run.folder / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps({"config": _config(run), "rows": rows}, indent=1) + "\n")
    return Result("done", rows)


def read_result(run: Run, workdir: Path) -> Result:
    """Return the result of a finished run, or "not run yet".

    Raises:
      ValueError: the folder holds the result of another config.
    """
    path = workdir / run.folder / _FILE
    if not path.exists():
        return Result("not run yet")
    stored = json.loads(path.read_text())
    may_differ = set(run.config.may_change_on_resume).difference(_MEASURED)
    differences = config_differences(stored["config"], _config(run), may_differ)
    if differences:
        raise ValueError(
            f"{path} is the result of another config: {'; '.join(differences)}. "
            "Use another --workdir."
        )
    return Result("done", stored["rows"])


def _config(run: Run) -> dict[str, Any]:
    """Return the config in JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(run.config)))


def _train(run: Run, folder: Path) -> dict[str, Row]:
    """Return the one row of a training; none if a signal ended it early."""
    trained = train(create_experiment(run.config), folder)
    if trained.metrics["interrupted"]:
        return {}
    measured = measure_gradient(run.config, trained.state)
    return {"": {**last_record(folder / "metrics.jsonl"), **trained.metrics, **measured}}


def last_record(path: Path) -> dict[str, Any]:
    """Return the last training metrics of a `metrics.jsonl`; {} if there are none.

    train/device_step_s is the smallest one of the same phase: the first record includes
    compilation.
    """
    lines = map(json.loads, path.read_text().splitlines())
    records = [record for record in lines if "train/loss" in record]
    if not records:
        return {}
    same = [record for record in records if record["train/phase"] == records[-1]["train/phase"]]
    seconds = min(record["train/device_step_s"] for record in same)
    return {**records[-1], "train/device_step_s": seconds}
