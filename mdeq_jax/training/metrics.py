"""Metrics on the host: averaged, checked, written down, and shown as training runs."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import jax

from mdeq_jax.training.workdir import replace_text


class NonFiniteError(RuntimeError):
    """A loss or a gradient that is not finite.

    Attributes:
      step: the training step, counted from 1.
    """

    def __init__(self, name: str, value: float, step: int, skipped: int = 0):
        """State which metric was not finite, where, and how many steps before were skipped."""
        after = f", after {skipped} steps in a row that were skipped (config.train.max_skipped)"
        super().__init__(f"{name} is {value} at step {step}" + after * (skipped > 0))
        self.step = step


class MetricBuffer:
    """The metrics of the steps since the last mean.

    The check for finite values runs one step behind, so that the device never waits for the host.
    """

    def __init__(self, max_skipped: int = 0):
        """Start empty.

        Args:
          max_skipped: most steps in a row whose loss or gradient may be infinite or NaN, because
            the training step then leaves the parameters unchanged. Such steps count in no mean.
        """
        self._max_skipped, self._skipped = max_skipped, 0
        self._steps: list[Mapping[str, Any]] = []
        self._unchecked: list[tuple[int, Mapping[str, Any]]] = []

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add the metrics of a step, arrays or numbers, after a `check` of the previous step."""
        self.check()
        self._unchecked.append((step, metrics))

    def check(self) -> None:
        """Raise NonFiniteError if more steps in a row than allowed were not finite."""
        for step, metrics in self._unchecked:
            broken = next((n for n in ("loss", "grad_norm") if not math.isfinite(metrics[n])), None)
            if broken is None:
                self._skipped = 0
                self._steps.append(metrics)
                continue
            value = float(metrics[broken])
            if self._skipped == self._max_skipped:
                raise NonFiniteError(broken, value, step, self._skipped)
            self._skipped += 1
            show(f"warning: {broken} is {value} at step {step}; the step is skipped", keep=True)
        self._unchecked.clear()

    def mean(self) -> dict[str, float]:
        """Return the mean of each metric and forget the steps; {} if all steps were skipped."""
        self.check()
        steps = jax.device_get(self._steps)
        self._steps = []
        names = steps[0] if steps else ()
        return {name: float(sum(m[name] for m in steps) / len(steps)) for name in names}


class Recorder:
    """Writes metrics to `metrics.jsonl` and TensorBoard in a folder, and a progress line to stderr.

    A resumed run deletes the records after the checkpoint that it resumes from.
    """

    def __init__(
        self,
        workdir: Path,
        resumed_from: int,
        *,
        total_steps: int,
        batch_size: int,
        sample: str,
        progress: Mapping[str, str],
        adjoint_advice: str = "",
    ):
        """Open the files.

        Args:
          workdir: the folder, which exists.
          resumed_from: step of the checkpoint that the run goes on from, 0 for a fresh start.
          total_steps: number of steps of the run, for the progress line.
          batch_size: number of samples of a step.
          sample: what a sample is called, such as "token".
          progress: metrics that the progress line shows beside the loss, each with its format.
          adjoint_advice: remedies for adjoint solves that do not converge; `train` shows them once.
        """
        self._total, self._batch_size = total_steps, batch_size
        self._sample, self._progress = sample, progress
        self._adjoint_advice, self._advised = adjoint_advice, False
        self._file = _reopen(workdir / "metrics.jsonl", resumed_from)
        # It imports torch where that is installed, which commands that record nothing need not.
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_from + 1)
        self._mark = (resumed_from, time.monotonic())

    def train(self, step: int, metrics: Mapping[str, float], phase: str) -> None:
        """Record the mean metrics of the steps up to `step`, and show progress.

        The time of a step has two parts: `data_wait_s`, which is among the metrics, and
        `device_step_s`, the rest. Neither these nor the time left include evaluations.
        """
        (last_step, last_time), now = self._mark, time.monotonic()
        self._mark = (step, now)
        rate = (step - last_step) / (now - last_time)
        samples_per_s, device_s = rate * self._batch_size, 1 / rate - metrics["data_wait_s"]
        speed = {
            "steps_per_s": rate,
            f"{self._sample}s_per_s": samples_per_s,
            "device_step_s": device_s,
        }
        scalars = {f"train/{name}": value for name, value in {**metrics, **speed}.items()}
        self._write(step, {**scalars, "train/phase": phase})
        shown = [f"step {step}/{self._total} ({phase})", f"loss {metrics['loss']:.4f}"]
        shown += [f"{name} {metrics[name]:{form}}" for name, form in self._progress.items()]
        shown += [f"{rate:.2f} steps/s", f"{samples_per_s:.0f} {self._sample}s/s"]
        shown += [f"data {1e3 * metrics['data_wait_s']:.0f} ms", f"device {1e3 * device_s:.0f} ms"]
        if "solver_steps" in metrics:
            shown.append(
                f"solver steps {metrics['solver_steps']:.1f} forward "
                f"{metrics['adjoint_steps']:.1f} backward"
            )
            shown.append(f"residual {metrics['residual']:.1e}")
        eta = time.strftime("%H:%M:%S", time.gmtime((self._total - step) / rate))
        show("  ".join([*shown, f"ETA {eta}"]))
        self._advise_on_adjoint(step, metrics)

    def evaluation(self, step: int, metrics: Mapping[str, float], seconds: float = 0.0) -> None:
        """Record an evaluation, and show the metrics whose names are NAME/METRIC.

        Longer names, such as the metrics of single classes, are recorded and not shown.

        Args:
          step: number of steps taken.
          metrics: the metrics, by their full names.
          seconds: how long the evaluation took; it is left out of the time of the training steps.
        """
        last_step, last_time = self._mark
        self._mark = (last_step, last_time + seconds)
        self._write(step, metrics)
        overall = [name for name in metrics if name.count("/") < 2]
        shown = "  ".join(f"{name} {metrics[name]:.4g}" for name in overall)
        show(f"step {step}/{self._total}  {shown}", keep=True)

    def _advise_on_adjoint(self, step: int, metrics: Mapping[str, float]) -> None:
        """Warn, once per run, if most adjoint solves since the last record did not converge."""
        share = metrics.get("adjoint_converged", 1.0)  # some gradients solve no adjoint equation
        if share < 0.5 and not self._advised:
            self._advised = True
            show(
                f"warning: adjoint_converged is {share:.0%} at step {step}: most adjoint solves do "
                f"not converge, and their gradients are inexact. {self._adjoint_advice}",
                keep=True,
            )

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        self._file.write(to_json({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if not isinstance(value, str) and math.isfinite(value):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        self._board.close()


def to_json(values: Mapping[str, Any]) -> str:
    """Return one line of JSON, in which a number that is not finite is null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite)


def _reopen(path: Path, resumed_from: int) -> TextIO:
    """Open a JSON-lines file to append to, and delete the lines after a step."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if _step(line) <= resumed_from]
        replace_text(path, "".join(line + "\n" for line in kept))
    return path.open("a")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a line cut off when the run was killed
        return math.inf


def show(line: str, keep: bool = False) -> None:
    """Print to stderr; on a terminal, over the last line unless it is to be kept."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="\n" if keep else "", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)
