"""The training loop: config → data → model → state → steps, until the last step or a signal."""

import contextlib
import dataclasses
import hashlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import PyTree

from mdeq_jax.runtime.hosts import in_any_process, is_main
from mdeq_jax.training.advice import adjoint_advice
from mdeq_jax.training.checkpoints import Checkpointer
from mdeq_jax.training.evaluation import evaluate, require_fit, solver_traces
from mdeq_jax.training.metrics import MetricBuffer, NoRecorder, Recorder
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.profiling import profiling
from mdeq_jax.training.state import create_state
from mdeq_jax.training.steps import (
    AXIS,
    check_batch_sizes,
    create_mesh,
    make_eval_step,
    make_put,
    make_train_step,
    replicate,
)
from mdeq_jax.vision import data
from mdeq_jax.vision.config import MAY_CHANGE_ON_RESUME, Config
from mdeq_jax.vision.load import start_from
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.tasks import Task, make_task
from mdeq_jax.viz.solver_trace import plot_solver_traces

# Several processes save and stop together, or they would wait for each other in vain. To ask each
# other takes until the device is done, so that it then waits for the host; a few steps are few
# seconds of the half minute that schedulers leave.
_AGREE_EVERY = 4
# Most images whose solves are drawn at the end.
_DRAWN = 8


def train(config: Config, workdir: Path, *, profile: bool = False) -> dict[str, Any]:
    """Train, or go on training, in a workdir, and evaluate at the end.

    Args:
      config: of the run.
      workdir: folder for checkpoints, metrics and pictures. If it holds a checkpoint of the same
        config, up to `MAY_CHANGE_ON_RESUME`, training goes on as if it had never stopped.
      profile: whether to record a trace of a few steps in its folder `profile`.

    Returns:
      The final evaluation, with ``steps``, ``wall_s``, ``resumed_from_step``, ``params_sha256`` and
      ``interrupted``: whether SIGTERM ended training early. Then everything is saved, and there is
      no evaluation.

    Raises:
      ValueError: config, data and workdir do not fit together, or data cannot be read any more;
        one process alone saves the steps taken until then.
      JaxRuntimeError: a device has too little memory; likewise if it is for an evaluation.
      OSError: a checkpoint cannot be written; the last one is kept.
      NonFiniteError: a loss or gradient was not finite; the last good checkpoint is kept.
    """
    started = time.monotonic()
    dataset = data.find_dataset(config.data)
    require_fit(config, dataset)
    info = data.dataset_info(config.data)
    batches = data.train_iterator(
        config.data,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with Checkpointer(
        str(workdir), dataclasses.asdict(config), may_differ=MAY_CHANGE_ON_RESUME
    ) as checkpointer:
        task = make_task(config, dataset.class_names)
        run = _Run(config, workdir, checkpointer, batches, info, task, dataset.normalise)
        if is_main():
            print(run.opening(), file=sys.stderr)
        with contextlib.closing(run.recorder), _catch_sigterm() as terminated:
            with profiling(workdir / "profile" if profile else None, run.step) as after_step:
                run.advance(terminated, after_step)
            metrics = {}
            if run.step == run.total:
                metrics = run.evaluate()
                if is_main():
                    run.draw()
    return {
        **metrics,
        "steps": run.step,
        "wall_s": round(time.monotonic() - started, 2),
        "resumed_from_step": run.resumed_from,
        "params_sha256": fingerprint(run.state.params),
        "interrupted": run.step < run.total,
    }


class _Run:
    """What the loop works on: the model's compiled steps, the state, and where things go."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        checkpointer: Checkpointer,
        batches: grain.DatasetIterator,
        info: data.DatasetInfo,
        task: Task,
        normalise: data.Normalisation,
    ):
        self.config, self.workdir = config, workdir
        self.task, self.score = task, f"eval/{task.score}"
        batches_per_epoch = info.train_examples // config.data.batch_size
        steps_per_epoch = config.train.steps_per_epoch(batches_per_epoch)
        self.total = config.train.total_steps(steps_per_epoch)
        self.checkpointer, self.batches = checkpointer, batches
        self.mesh = create_mesh()
        self.normalise, self.put = normalise, make_put(normalise, self.mesh)
        check_batch_sizes(config.data, self.mesh, config.train.accumulate_steps)
        model = create_model(config.model, axis_name=AXIS, dtype=config.compute_dtype)
        whole = config.train.total_steps(batches_per_epoch)
        optimizer = create_optimizer(config.optim, whole, steps_per_epoch)
        make_step = partial(make_train_step, model, config, optimizer, self.mesh)
        self.train_step = cache(
            lambda unrolled: make_step(unrolled=unrolled, steps_per_epoch=steps_per_epoch)
        )
        self.eval_step = cache(
            lambda unrolled: make_eval_step(model, config, self.mesh, unrolled=unrolled)
        )
        self.state = replicate(
            create_state(model, optimizer, info.image_shape, config.seed), self.mesh
        )
        self.step = self.resumed_from = self.saved_step = self._restore()
        self.saved_at = time.monotonic()
        best = checkpointer.best_metrics()
        self.best_score = best[self.score] if best else -1.0
        self.recorder = (
            Recorder(
                workdir,
                self.resumed_from,
                total_steps=self.total,
                batch_size=config.data.batch_size,
                score=task.train_score,
                adjoint_advice=adjoint_advice(config),
            )
            if is_main()
            else NoRecorder()
        )
        skips = config.train.on_nonfinite == "skip"
        self.metrics = MetricBuffer(config.train.max_skipped if skips else 0)

    def _restore(self) -> int:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state
        )
        restored = self.checkpointer.restore_latest(abstract, self.batches)
        if restored is None:
            if self.config.init_from is not None:
                self._start_from(self.config.init_from)
            return 0
        step, self.state = restored
        if self.config.init_from is not None and is_main():
            print(f"resumed at step {step}; config.init_from is not read again", file=sys.stderr)
        return step

    def _start_from(self, source: str) -> None:
        variables, left = start_from(
            self.state.variables,
            source,
            self.config.model,
            allow_missing=self.config.init_from_allow_missing,
        )
        self.state = dataclasses.replace(self.state, **replicate(variables, self.mesh))
        if is_main():
            print(f"started from {source}; left at their initial values:", file=sys.stderr)
            print("\n".join(f"  {name}" for name in left or ["nothing"]), file=sys.stderr)

    def opening(self) -> str:
        """Return what to say before the first step, which says nothing until it is compiled."""
        parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        device = jax.devices()[0].device_kind
        return (
            f"{parameters:,} parameters, {self.mesh.size} × {device}, step {self.step} of "
            f"{self.total}" + "; compiling" * (self.step < self.total)
        )

    def advance(
        self, terminated: Callable[[], bool], after_step: Callable[[int, PyTree], None]
    ) -> None:
        """Take steps until the last one or a signal, then save."""
        options = self.config.train
        stop = False
        while self.step < self.total and not stop:
            train_step = self.train_step(options.unrolled_at(self.step))
            asked_at = time.monotonic()
            with self._saving_what_is_trained():
                batch = next(self.batches)
            data_wait = {"data_wait_s": time.monotonic() - asked_at}
            self.state, metrics = train_step(self.state, self.put(batch))
            self.step += 1
            self.metrics.add(self.step, metrics | data_wait)
            after_step(self.step, metrics)
            if self.step % options.log_every == 0:
                self._record()
            if self.step % options.eval_every == 0 and self.step < self.total:
                with self._saving_what_is_trained():
                    self.evaluate()
            if jax.process_count() == 1 or self.step % _AGREE_EVERY == 0:
                stop, due = in_any_process(terminated(), self._checkpoint_is_due())
                if due:
                    self.save()
        self.save()

    @contextlib.contextmanager
    def _saving_what_is_trained(self) -> Iterator[None]:
        """Save the steps taken if data or an evaluation end the run."""
        try:
            yield
        except (ValueError, OSError, jax.errors.JaxRuntimeError):
            if jax.process_count() == 1:  # several could not agree to save
                self.save()
            raise

    def _record(self) -> None:
        metrics = self.metrics.mean()
        if metrics:
            unrolled = self.config.train.unrolled_at(self.step - 1)
            self.recorder.train(self.step, metrics, "solve" if unrolled is None else "unrolled")

    def _checkpoint_is_due(self) -> bool:
        options = self.config.train
        steps, seconds = self.step - self.saved_step, time.monotonic() - self.saved_at
        enough = options.checkpoint_steps is not None and steps >= options.checkpoint_steps
        return enough or seconds >= options.checkpoint_seconds

    def save(self) -> None:
        """Save the state, once every loss that led to it is known to be finite."""
        self.metrics.check()
        self.checkpointer.save(self.step, self.state, self.batches)
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def evaluate(self) -> dict[str, float]:
        """Evaluate, record, and keep the state if it is the best so far."""
        self.metrics.check()
        started = time.monotonic()
        eval_step = self.eval_step(self.config.train.unrolled_at(self.step))
        metrics = evaluate(eval_step, self.state.variables, self.config.data, self.mesh, self.task)
        self.recorder.evaluation(self.step, metrics, time.monotonic() - started)
        if metrics[self.score] > self.best_score:
            self.best_score = metrics[self.score]
            self.checkpointer.save_best(self.step, self.state, metrics)
        return metrics

    def draw(self) -> None:
        """Draw the residual of both solves on a few images of evaluation."""
        batch = next(iter(data.eval_batches(self.config.data)))
        share = min(_DRAWN, len(batch["image"]) // self.mesh.size)  # it is one device that solves
        batch = {name: rows[:share] for name, rows in batch.items()}
        batch["image"] = self.normalise(batch["image"])
        model = create_model(self.config.model, dtype=self.config.compute_dtype)
        try:
            traces = solver_traces(model, self.config, jax.device_get(self.state.variables), batch)
            forward, backward = jax.device_get(traces)
            plot_solver_traces(forward, backward, self.workdir / "solver_trace.png")
        except (jax.errors.JaxRuntimeError, OSError) as error:  # what was trained is worth more
            reason = str(error).partition("\n")[0]
            print(f"warning: solver_trace.png is left out: {reason}", file=sys.stderr)


def fingerprint(params: PyTree) -> str:
    """Return the SHA-256 of the bytes of all parameters, in the order of the tree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM be noticed between steps instead of ending the process."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
