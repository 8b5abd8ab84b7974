"""Running a cell, and the file that says how it went, by which a comparison resumes."""

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from mdeq_jax.comparison.examine import latency, silenced_scales
from mdeq_jax.comparison.measure import Cost, Measurement, measure
from mdeq_jax.comparison.settings import Cell
from mdeq_jax.comparison.train_baseline import train_baseline
from mdeq_jax.training.loop import train
from mdeq_jax.training.metrics import NonFiniteError
from mdeq_jax.training.workdir import config_differences
from mdeq_jax.vision.config import MAY_CHANGE_ON_RESUME
from mdeq_jax.vision.load import load_trained

_FILE = "result.json"
_EXAMINATIONS = {"silenced": silenced_scales, "latency": latency}


@dataclasses.dataclass(frozen=True)
class Result:
    """How a cell went.

    Attributes:
      status: "not run yet", "running" from its start to its end, then "done", "failed", or
        "skipped" where a package is missing. Only what is done is not run again.
      message: why it failed or was skipped.
      measurements: a row each.
      seconds: from its start to its end.
    """

    status: Literal["not run yet", "running", "done", "failed", "skipped"]
    message: str = ""
    measurements: tuple[Measurement, ...] = ()
    seconds: float = 0.0


def run_cell(cell: Cell, workdir: Path, base: Cell) -> Result:
    """Run a cell, or go on with it, and write down how it went.

    Args:
      cell: to be run.
      workdir: of the comparison.
      base: the cell whose model "silenced" and "latency" examine.

    Returns:
      The result, "running" if a signal ended training early.
    """
    started = time.monotonic()
    write_result(cell, workdir, Result("running"))
    try:
        measurements = _measurements(cell, workdir, base)
        result = Result("done" if measurements else "running", measurements=measurements)
    except ModuleNotFoundError as error:
        remedy = f"install {error.name}: pip install -r requirements-dev.txt"
        result = Result("skipped", f"{error}; {remedy}")
    except (ValueError, NonFiniteError) as error:
        result = Result("failed", str(error))
    except jax.errors.JaxRuntimeError as error:  # pages of the device's state follow the first line
        result = Result("failed", str(error).partition("\n")[0])
    result = dataclasses.replace(result, seconds=round(time.monotonic() - started, 2))
    write_result(cell, workdir, result)
    return result


def _measurements(cell: Cell, workdir: Path, base: Cell) -> tuple[Measurement, ...]:
    """The rows of a cell; none if a signal ended its training early."""
    if cell.kind in _EXAMINATIONS:
        status = read_result(base, workdir).status
        if status != "done":
            raise ValueError(f"the base did not finish ({status}), so there is no model to examine")
        return _EXAMINATIONS[cell.kind](load_trained(workdir / base.folder))
    if cell.kind != "equilibrium":
        return (train_baseline(cell.kind, cell.config),)
    folder = workdir / cell.folder
    metrics = train(cell.config, folder)
    return () if metrics["interrupted"] else (measure(load_trained(folder), metrics),)


def read_results(cells: Sequence[Cell], workdir: Path) -> dict[Cell, Result]:
    """Return how each cell went, the base first among them.

    What was found out about the base's model is forgotten unless its run is done, for another model
    will come of it.

    Raises:
      ValueError: as `read_result`.
    """
    if read_result(cells[0], workdir).status != "done":
        for path in workdir.glob(f"*/*/{_FILE}"):
            if json.loads(path.read_text())["run"]["kind"] in _EXAMINATIONS:
                path.unlink()
    return {cell: read_result(cell, workdir) for cell in cells}


def read_result(cell: Cell, workdir: Path) -> Result:
    """Return how a cell went.

    Raises:
      ValueError: the folder holds the result of another config.
    """
    path = workdir / cell.folder / _FILE
    if not path.exists():
        return Result("not run yet")
    stored = json.loads(path.read_text())
    differences = config_differences(stored["run"], _run(cell), _MAY_DIFFER)
    if differences:
        raise ValueError(
            f"{path} is the result of another config: {'; '.join(differences)}. "
            "Use another --workdir."
        )
    return _result(stored["result"])


def write_result(cell: Cell, workdir: Path, result: Result) -> None:
    """Write a cell's result, whole or not at all."""
    path = workdir / cell.folder / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    stored = {"run": _run(cell), "result": dataclasses.asdict(result)}
    partial.write_text(json.dumps(stored, indent=1) + "\n")
    os.replace(partial, path)


# A resumed run may have other values of these, but its measurements would not be the same.
_MEASURED = (
    "data.eval_batch_size",
    "data.eval_image_size",
    "inference",
    "init_from",
    "init_from_allow_missing",
)
_MAY_DIFFER = tuple(f"config.{key}" for key in MAY_CHANGE_ON_RESUME if key not in _MEASURED)


def _run(cell: Cell) -> dict[str, Any]:
    """What a cell is a run of, in JSON's types."""
    run = {"kind": cell.kind, "config": dataclasses.asdict(cell.config)}
    return json.loads(json.dumps(run))


def _result(stored: Mapping[str, Any]) -> Result:
    def measurement(row: dict[str, Any]) -> Measurement:
        cost = row["cost"]
        return Measurement(**{**row, "cost": None if cost is None else Cost(**cost)})

    rows = tuple(measurement(row) for row in stored["measurements"])
    return Result(stored["status"], stored["message"], rows, stored["seconds"])
