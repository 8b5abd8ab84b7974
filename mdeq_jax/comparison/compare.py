"""The comparison: carry out every run in turn, and rewrite the report after each."""

import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from etils import epath

from mdeq_jax.applications import create_experiment
from mdeq_jax.comparison.report import write_report
from mdeq_jax.comparison.runs import carry_out, read_result
from mdeq_jax.comparison.settings import Table, plan
from mdeq_jax.training.workdir import require_writable
from mdeq_jax.vision.config import Config, override

_RADIUS_ITERATIONS = 30


def compare(
    base: Config,
    workdir: Path,
    groups: Collection[str],
    command: str,
    table: Table | None = None,
) -> dict[str, Any]:
    """Train a config under the settings of some groups, and write `report.md` and `report.png`.

    Args:
      base: the config that the settings change.
      workdir: folder of the report, with a folder for each run. A finished run is reused, and an
        interrupted one continues.
      groups: names in `settings.GROUPS`; "base" is always among them.
      command: the command that the report states.
      table: the settings to choose from, the base first; None is `settings.TABLE`.

    Returns:
      ``report``, the path of the report; ``runs``, ``reused``, ``failed`` and ``skipped``, numbers
      of runs; ``wall_s``; and ``interrupted``, whether SIGTERM ended a training early.

    Raises:
      ValueError: an unknown group, a config that never solves, or a workdir that cannot be written
        or holds runs of another config.
    """
    started = time.monotonic()
    if base.train.spectral_radius_iterations == 0:  # otherwise evaluation would leave it out
        base = override(base, {"train.spectral_radius_iterations": _RADIUS_ITERATIONS})
    settings = plan(base, groups, table)
    _require_solving(base)
    require_writable(epath.Path(workdir))
    runs = list(dict.fromkeys(setting.run for setting in settings if setting.run is not None))
    results = {run: read_result(run, workdir) for run in runs}
    waiting = [run for run in runs if results[run].status != "done"]
    report = write_report(settings, results, workdir, command)
    for i, run in enumerate(waiting):
        left = f"{(time.monotonic() - started) * (len(waiting) / i - 1):.0f} s" if i else "unknown"
        _show(f"run {i + 1}/{len(waiting)}  {run.folder}  time left for all: {left}")
        results[run] = carry_out(run, workdir, base=runs[0])
        write_report(settings, results, workdir, command)
        _show(f"{run.folder}: {results[run].status}  {results[run].message}")
        if results[run].status == "interrupted":
            break
        jax.clear_caches()  # later runs use none of the compiled programs
    statuses = [result.status for result in results.values()]
    return {
        "report": str(report),
        "runs": len(runs),
        "reused": len(runs) - len(waiting),
        "failed": statuses.count("failed") + sum(setting.run is None for setting in settings),
        "skipped": statuses.count("skipped"),
        "wall_s": round(time.monotonic() - started, 2),
        "interrupted": "interrupted" in statuses,
    }


def _require_solving(base: Config) -> None:
    """Raise ValueError if training ends before its warm-up does."""
    batches_per_epoch = create_experiment(base).train_size // base.data.batch_size
    steps = base.train.total_steps(base.train.steps_per_epoch(batches_per_epoch))
    if base.train.pretrain_steps >= steps:
        raise ValueError(
            f"config.train.pretrain_steps is {base.train.pretrain_steps}, but training takes "
            f"{steps} steps, so that nothing would be solved; lower it or train longer."
        )


def _show(line: str) -> None:
    print(line.rstrip(), file=sys.stderr, flush=True)
