"""The report: a table for each group in Markdown, and a figure beside it."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from mdeq_jax.comparison.figure import Point, plot_comparison
from mdeq_jax.comparison.measure import Row
from mdeq_jax.comparison.runs import Result
from mdeq_jax.comparison.settings import GROUPS, Run, Setting
from mdeq_jax.training.workdir import replace_text


class _Column(NamedTuple):
    title: str
    key: str  # name of the metric
    scale: float
    form: str

    def read(self, row: Row) -> float | None:
        value = row.get(self.key)
        return None if value is None else self.scale * value

    def show(self, row: Row) -> str:
        value = self.read(row)
        return "–" if value is None else f"{value:{self.form}}"


_ACCURACY = _Column("accuracy, %", "eval/accuracy", 100, ".2f")
_STEP = _Column("step, ms", "train/device_step_s", 1e3, ".1f")
_BATCH = _Column("batch, ms", "batch_s", 1e3, ".1f")
_CELL = _Column("cosine, cell", "cosine_cell", 1, ".4f")
_COLUMNS = (
    _ACCURACY,
    _Column("loss", "eval/loss", 1, ".4f"),
    _Column("forward steps", "eval/solver_steps", 1, ".1f"),
    _Column("evaluations", "eval/block_evaluations", 1, ".0f"),
    _Column("backward steps", "train/adjoint_steps", 1, ".1f"),
    _STEP,
    _BATCH,
    _Column("memory, MiB", "memory_bytes", 2**-20, ".1f"),
    _Column("radius", "eval/spectral_radius", 1, ".2f"),
    _Column("gradient error", "train/gradient_error", 1, ".0e"),
    _Column("cosine", "cosine", 1, ".4f"),
    _CELL,
    _Column("residual of exact", "reference_residual", 1, ".0e"),
    _Column("parameters", "parameters", 1, ",.0f"),
)
_LEGEND = """
- **accuracy, %** and **loss**: on the test set.
- **forward steps**: solver steps, or applications of an unrolled cell; mean over the test set.
- **evaluations**: how often an explicit model evaluates a block.
- **backward steps**: steps of the adjoint solve; mean over the last record of training.
- **step, ms**: time of a training step; the smallest of the means that training records.
- **batch, ms**: time of an evaluation batch, with its reading.
- **memory, MiB**: temporary memory of a training gradient on one device, by the compiler's account.
- **radius**: spectral radius of the cell's Jacobian at the equilibrium; mean over the test set.
- **gradient error**: estimated relative error of the exact gradient; mean over the last record.
- **cosine**: between the gradient of a training batch and the exact one at the same state, whose
  adjoint equation is solved to 1e-6 or in 100 steps.
- **cosine, cell**: the same for the cell's parameters alone; the head's gradient is always exact.
- **residual of exact**: mean residual of the adjoint solves of that exact gradient. If it is not
  small, the cosines say little.
- **parameters**: trainable."""


def write_report(
    settings: Sequence[Setting], results: Mapping[Run, Result], workdir: Path, command: str
) -> Path:
    """Write `report.md` and `report.png`; return the path of `report.md`.

    Args:
      settings: the settings, in order.
      results: the results of all runs.
      workdir: folder to write to.
      command: the command that the report states.
    """
    path = workdir / "report.md"
    replace_text(path, "\n".join(_lines(settings, results, command)) + "\n")
    points = [
        Point(setting.group, name, accuracy, _BATCH.read(row) or _STEP.read(row), _CELL.read(row))
        for setting in settings
        for name, row in _rows(setting, results)
        if (accuracy := _ACCURACY.read(row)) is not None
    ]
    plot_comparison(points, workdir / "report.png")
    return path


def _lines(
    settings: Sequence[Setting], results: Mapping[Run, Result], command: str
) -> Iterator[str]:
    packages = ("jax", "flax", "optax")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    yield f"# Comparison\n\n```bash\n{command}\n```\n"
    yield (
        f"{datetime.date.today()}; {len(jax.devices())} × {jax.devices()[0].device_kind}, "
        f"{os.cpu_count()} CPU cores; Python {platform.python_version()}, {versions}.\n"
    )
    yield "![Error of each setting, latency, and gradients against their cost](report.png)"
    yield _LEGEND
    for group, question in GROUPS.items():
        members = [setting for setting in settings if setting.group == group]
        if members:
            yield f"\n## {group}\n\n{question}\n"
            yield from _table(members, results)
    yield "\n## What each setting changes\n"
    for setting in settings:
        changes = ", ".join(f"`{key}={value}`" for key, value in setting.changes.items())
        yield f"- {setting.group}, {setting.name}: {changes or 'nothing'}"


def _table(members: Sequence[Setting], results: Mapping[Run, Result]) -> Iterator[str]:
    rows = [row for member in members for row in _rows(member, results)]
    columns = [c for c in _COLUMNS if any(c.read(row) is not None for _, row in rows)]
    if rows:
        yield "| setting | " + " | ".join(column.title for column in columns) + " |"
        yield "|---|" + "---:|" * len(columns)
    for name, row in rows:
        yield f"| {name} | " + " | ".join(column.show(row) for column in columns) + " |"
    for member in members:
        result = _result(member, results)
        if result.status != "done":
            yield f"\n- {member.name}: {': '.join(filter(None, (result.status, result.message)))}"


def _rows(setting: Setting, results: Mapping[Run, Result]) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a setting, each with its name; none if it has no result."""
    for name, row in _result(setting, results).rows.items():
        yield name or setting.name, row


def _result(setting: Setting, results: Mapping[Run, Result]) -> Result:
    failed = Result("failed", message=setting.message)
    return failed if setting.run is None else results[setting.run]
