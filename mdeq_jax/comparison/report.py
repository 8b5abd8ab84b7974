"""The report: a table for each group, in Markdown, and the pictures beside it."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from mdeq_jax.comparison.cells import Result
from mdeq_jax.comparison.measure import Measurement
from mdeq_jax.comparison.settings import GROUPS, Cell, Planned
from mdeq_jax.viz.comparison import Point, plot_comparison

_PACKAGES = ("jax", "flax", "optax")


class _Column(NamedTuple):
    title: str
    meaning: str
    read: Callable[[Measurement], float | None]
    form: str


def _cost(field: str, scale: float) -> Callable[[Measurement], float | None]:
    def read(row: Measurement) -> float | None:
        value = None if row.cost is None else getattr(row.cost, field)
        return None if value is None else value * scale

    return read


_COLUMNS = (
    _Column("accuracy, %", "on the test set", lambda row: 100 * row.accuracy, ".2f"),
    _Column("loss", "cross-entropy on the test set", lambda row: row.loss, ".4f"),
    _Column(
        "forward steps",
        "mean over the test set: solver steps; of unrolled and explicit models their depth; of the "
        "neural ODE its evaluations of the vector field",
        lambda row: row.forward_steps,
        ".1f",
    ),
    _Column(
        "backward steps",
        "mean over a training batch: steps of the adjoint solve, 0 where nothing is solved",
        lambda row: row.backward_steps,
        ".1f",
    ),
    _Column("forward, ms", "a batch's loss, median of 5", _cost("forward_s", 1e3), ".1f"),
    _Column(
        "backward, ms",
        "a batch's loss and gradient, less its loss",
        _cost("backward_s", 1e3),
        ".1f",
    ),
    _Column(
        "memory, MiB",
        "temporary memory of a batch's loss and gradient, by the compiler's account",
        _cost("memory_bytes", 2**-20),
        ".1f",
    ),
    _Column(
        "radius, mean",
        "spectral radius of the cell's Jacobian at the equilibrium, over an evaluation batch",
        lambda row: row.radius_mean,
        ".2f",
    ),
    _Column("radius, max", "likewise", lambda row: row.radius_max, ".2f"),
    _Column(
        "cosine",
        "between the gradient of all parameters on a training batch and the exact one at the same "
        "state (adjoint equation solved to 1e-6, or 100 steps)",
        lambda row: row.cosine,
        ".4f",
    ),
    _Column(
        "cosine, cell",
        "likewise for the cell's parameters alone; the head's gradient is always exact",
        lambda row: row.cosine_cell,
        ".4f",
    ),
    _Column(
        "residual of exact",
        "the largest of the adjoint solves behind the exact gradient; where it is not small, the "
        "cosines say little",
        lambda row: row.reference_residual,
        ".0e",
    ),
    _Column("parameters", "trainable", lambda row: row.parameters, ",d"),
)


def write_report(
    planned: Sequence[Planned], results: Mapping[Cell, Result], workdir: Path, command: str
) -> Path:
    """Write `report.md` and `report.png`; return the path of the former.

    Args:
      planned: the rows, in order.
      results: of all cells.
      workdir: where to write.
      command: that led to it.
    """
    path = workdir / "report.md"
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(_lines(planned, results, command)) + "\n")
    os.replace(partial, path)
    _plot(planned, results, workdir / "report.png")
    return path


def _lines(
    planned: Sequence[Planned], results: Mapping[Cell, Result], command: str
) -> Iterator[str]:
    device = jax.devices()[0]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    yield "# Comparison"
    yield f"\n```bash\n{command}\n```\n"
    yield (
        f"{datetime.date.today()}; {len(jax.devices())} × {device.device_kind}, "
        f"{os.cpu_count()} CPU cores; Python {platform.python_version()}, {versions}. "
        "Costs are of one training batch; in latency, of one evaluation batch.\n"
    )
    yield ("![Error of each setting, latency, and gradients against their cost](report.png)\n")
    yield from (f"- **{column.title}**: {column.meaning}." for column in _COLUMNS)
    for group, question in GROUPS.items():
        members = [row for row in planned if row.setting.group == group]
        if members:
            yield f"\n## {group}\n\n{question}\n"
            yield from _table(members, results)
    yield "\n## What each setting changes\n"
    for row in planned:
        changes = ", ".join(f"`{key}={value}`" for key, value in row.changes.items())
        yield f"- {row.setting.group}, {row.setting.name}: {changes or 'nothing'}"


def _table(members: Sequence[Planned], results: Mapping[Cell, Result]) -> Iterator[str]:
    rows = [row for member in members for row in _rows(member, results)]
    columns = [c for c in _COLUMNS if any(c.read(row) is not None for _, row in rows)]
    if rows:
        yield "| setting | " + " | ".join(column.title for column in columns) + " |"
        yield "|---|" + "---:|" * len(columns)
        for name, row in rows:
            values = [column.read(row) for column in columns]
            cells = [
                "–" if v is None else f"{v:{c.form}}" for v, c in zip(values, columns, strict=True)
            ]
            yield f"| {name} | " + " | ".join(cells) + " |"
    for member in members:
        status, message = _status(member, results)
        if status != "done":
            yield f"\n- {member.setting.name}: {status}{': ' if message else ''}{message}"


def _rows(member: Planned, results: Mapping[Cell, Result]) -> Iterator[tuple[str, Measurement]]:
    """Yield the rows of a setting, each with its name; none if it has no result."""
    if member.cell is not None:
        for row in results[member.cell].measurements:
            yield row.name or member.setting.name, row


def _status(member: Planned, results: Mapping[Cell, Result]) -> tuple[str, str]:
    if member.cell is None:
        return "failed", member.message
    return results[member.cell].status, results[member.cell].message


def _plot(planned: Sequence[Planned], results: Mapping[Cell, Result], path: Path) -> None:
    rows = [(member.setting.group, *row) for member in planned for row in _rows(member, results)]

    def latency(prefix: str) -> list[Point]:
        return [
            Point(name.removeprefix(prefix), row.cost.forward_s, row.accuracy)
            for group, name, row in rows
            if group == "latency" and row.cost is not None and name.startswith(prefix)
        ]

    gradients = [
        Point(name, row.cost.backward_s, row.cosine_cell)
        for group, name, row in rows
        if group == "gradients" and row.cosine_cell is not None
        if row.cost is not None and row.cost.backward_s is not None
    ]
    plot_comparison(
        accuracies=[(group, name, row.accuracy) for group, name, row in rows if group != "latency"],
        latency={kind: latency(f"{kind} ") for kind in ("step limit", "tolerance")},
        gradients=gradients,
        path=path,
    )
