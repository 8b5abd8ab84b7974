"""The comparison: every cell in turn, and the report anew after each."""

import functools
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from mdeq_jax.comparison.cells import Result, read_results, run_cell
from mdeq_jax.comparison.report import write_report
from mdeq_jax.comparison.settings import TABLE, Cell, Planned, Setting, plan
from mdeq_jax.training.workdir import require_writable
from mdeq_jax.vision import data
from mdeq_jax.vision.config import Config


def compare(
    base: Config,
    workdir: Path,
    groups: Collection[str],
    command: str,
    table: Sequence[Setting] = TABLE,
) -> dict[str, Any]:
    """Train a config under the settings of some groups, and write `report.md` and `report.png`.

    Args:
      base: the config.
      workdir: folder of the report, and of a folder for each cell. What is done there already is
        not done again.
      groups: names in `settings.GROUPS`; "base" is always among them.
      command: as the report is to state it.
      table: the settings to choose from, the base first.

    Returns:
      ``report``, its path; the numbers of ``cells``, ``run``, ``reused``, ``failed``, ``skipped``;
      ``wall_s``; ``interrupted``, whether SIGTERM ended a training early.

    Raises:
      ValueError: an unknown group, a config that never solves, or a workdir that cannot be written
        or holds results of another config.
    """
    started = time.monotonic()
    _require_solving(base)
    planned = plan(base, groups, table)
    require_writable(epath.Path(workdir))
    cells = list(dict.fromkeys(row.cell for row in planned if row.cell is not None))
    results = read_results(cells, workdir)
    to_run = [cell for cell in cells if results[cell].status != "done"]
    report = functools.partial(write_report, planned, results, workdir, command)
    path = report()
    interrupted = _run_all(to_run, cells[0], workdir, results, report)
    return {
        "report": str(path),
        **_count(planned, to_run, results),
        "wall_s": round(time.monotonic() - started, 2),
        "interrupted": interrupted,
    }


def _run_all(
    cells: list[Cell],
    base: Cell,
    workdir: Path,
    results: dict[Cell, Result],
    report: Callable[[], Path],
) -> bool:
    """Run cells into `results`, with a report after each; return whether a signal ended one."""
    started = time.monotonic()
    for i, cell in enumerate(cells):
        eta = "unknown"
        if i > 0:
            left = (time.monotonic() - started) / i * (len(cells) - i)
            eta = time.strftime("%H:%M:%S", time.gmtime(left))
        _show(f"cell {i + 1}/{len(cells)}  {cell.folder}  ETA of all {eta}")
        results[cell] = result = run_cell(cell, workdir, base)
        report()
        _show(f"{cell.folder}: {result.status} in {result.seconds:.0f} s  {result.message}")
        if result.status == "running":
            return True
        jax.clear_caches()  # no later cell uses what was compiled for this one
    return False


def _count(
    planned: list[Planned], to_run: list[Cell], results: dict[Cell, Result]
) -> dict[str, int]:
    """Count cells by what became of them; settings that do not fit the base have failed."""
    statuses = [result.status for result in results.values()]
    unfit = sum(row.cell is None for row in planned)
    return {
        "cells": len(results),
        "run": len(to_run),
        "reused": len(results) - len(to_run),
        "failed": statuses.count("failed") + unfit,
        "skipped": statuses.count("skipped"),
    }


def _require_solving(base: Config) -> None:
    """Raise ValueError if training is over before the solver takes over."""
    info = data.dataset_info(base.data)
    per_epoch = info.train_examples // base.data.batch_size
    steps = base.train.total_steps(base.train.steps_per_epoch(per_epoch))
    if base.train.pretrain_steps >= steps:
        raise ValueError(
            f"config.train.pretrain_steps is {base.train.pretrain_steps}, but training takes "
            f"{steps} steps, so that nothing would be solved; lower it or train longer."
        )


def _show(line: str) -> None:
    print(line.rstrip(), file=sys.stderr, flush=True)
