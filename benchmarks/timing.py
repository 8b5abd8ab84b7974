"""Time several functions in turns, so that a busy machine slows all of them equally."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def take_turns(functions: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """Return the seconds of each call; a first call of each function is not counted.

    Args:
      functions: functions by name. Each returns arrays, and its time ends when they are computed.
      rounds: number of calls of each function, at least 1.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], of: str, to: str) -> float:
    """Return the median over the rounds of one function's time over another's."""
    return statistics.median(a / b for a, b in zip(seconds[of], seconds[to], strict=True))


def milliseconds(seconds: list[float]) -> float:
    """Return the median, in milliseconds."""
    return 1e3 * statistics.median(seconds)


def report(name: str, rows: list[dict[str, Any]], **figures: Any) -> None:
    """Print rows as a table, then everything as one line of JSON with versions and device."""
    columns = list(rows[0])
    shown = [columns, *([_show(row[c]) for c in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        cells = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells))
    device = jax.devices()[0]
    machine = {"jax": jax.__version__, "device": device.device_kind, "platform": device.platform}
    print(json.dumps({"benchmark": name, **figures, "rows": rows, **machine}))


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
