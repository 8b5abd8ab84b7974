"""The training loop: experiment → state → steps, until the last step or a signal."""

import contextlib
import dataclasses
import hashlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from mdeq_jax.runtime.hosts import in_any_process, is_main
from mdeq_jax.training.advice import adjoint_advice
from mdeq_jax.training.checkpoints import Checkpointer
from mdeq_jax.training.config import RunConfig, TrainConfig
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.experiment import Batch, Experiment, Score, make_put
from mdeq_jax.training.mesh import check_batch_sizes, create_mesh, replicate
from mdeq_jax.training.metrics import MetricBuffer, Recorder
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.profiling import profiling
from mdeq_jax.training.state import TrainState, create_state, place_state
from mdeq_jax.training.steps import TrainStep, make_train_step

# Several processes save and stop together; otherwise they would wait for each other for ever. They
# agree every few steps only, because asking makes the device wait for the host. A few steps are a
# few seconds of the half minute that schedulers leave.
_AGREE_EVERY = 4


class TrainResult(NamedTuple):
    """What training returns.

    Attributes:
      metrics: the final evaluation, with ``steps``, ``wall_s``, ``resumed_from_step``,
        ``params_sha256`` and ``interrupted``: whether SIGTERM ended training early. In this case
        the state is saved and not evaluated.
      state: the last state, on the devices.
    """

    metrics: dict[str, Any]
    state: TrainState


def train(experiment: Experiment, workdir: Path, *, profile: bool = False) -> TrainResult:
    """Train, or continue to train, in a workdir, and evaluate at the end.

    Args:
      experiment: the experiment to train.
      workdir: folder for checkpoints, metrics and pictures. If it holds a checkpoint of the same
        config, up to the keys that may change on resuming, training continues exactly where it
        stopped.
      profile: whether to record a trace of a few steps in the folder `profile` of the workdir.

    Raises:
      ValueError: config, data and workdir do not fit together, or data can no longer be read; a
        single process then saves the steps taken so far.
      JaxRuntimeError: a device has too little memory. If that happens in an evaluation, a single
        process saves the steps taken so far.
      OSError: a checkpoint cannot be written; the last one is kept.
      NonFiniteError: a loss or gradient was not finite; the last good checkpoint is kept.
    """
    started, config = time.monotonic(), experiment.config
    mesh = create_mesh()
    check_batch_sizes(config, mesh)
    evaluator = Evaluator(experiment, mesh)
    batches = experiment.train_batches()
    batches_per_epoch = experiment.train_size // config.data.batch_size
    steps_per_epoch = config.train.steps_per_epoch(batches_per_epoch)
    total_steps = config.train.total_steps(steps_per_epoch)
    optimizer = create_optimizer(
        config.optim, config.train.total_steps(batches_per_epoch), steps_per_epoch
    )
    train_step = cache(
        lambda unrolled: make_train_step(
            experiment, optimizer, mesh, unrolled=unrolled, steps_per_epoch=steps_per_epoch
        )
    )
    with contextlib.ExitStack() as stack:
        checkpointer = stack.enter_context(
            Checkpointer(
                str(workdir), dataclasses.asdict(config), may_differ=config.may_change_on_resume
            )
        )
        state = place_state(create_state(experiment, optimizer), mesh)
        state, step = _resume_or_start(experiment, checkpointer, state, batches, mesh)
        recorder = stack.enter_context(_recording(experiment, workdir, step, total_steps))
        loop = Loop(
            options=config.train,
            total_steps=total_steps,
            batches=batches,
            put=make_put(experiment, mesh),
            train_step=train_step,
            evaluator=evaluator,
            score=experiment.score,
            checkpointer=checkpointer,
            recorder=recorder,
            state=state,
            step=step,
        )
        if is_main():
            print(_opening(state, mesh.size, step, total_steps), file=sys.stderr)
        terminated = stack.enter_context(_catch_sigterm())
        with profiling(workdir / "profile" if profile else None, step) as after_step:
            loop.advance(terminated, after_step)
        finished = loop.step == total_steps
        metrics = loop.evaluate() if finished else {}
    summary = {
        "steps": loop.step,
        "wall_s": round(time.monotonic() - started, 2),
        "resumed_from_step": step,
        "params_sha256": fingerprint(loop.state.params),
        "interrupted": not finished,
    }
    return TrainResult({**metrics, **summary}, loop.state)


@dataclasses.dataclass
class Loop:
    """The loop, and when it records, evaluates and saves.

    Attributes:
      options: the section ``train`` of the config.
      total_steps: the step to stop at.
      batches: the training data, at the position after `step` steps.
      put: moves a host batch to the devices and prepares it.
      train_step: returns the compiled step for a number of unrolled applications, or None.
      evaluator: returns the metrics of variables.
      score: the metric of the best checkpoint.
      checkpointer: the checkpoints of the workdir.
      recorder: records metrics; None in all processes but one.
      state: the state after `step` steps.
      step: number of steps taken.
    """

    options: TrainConfig
    total_steps: int
    batches: grain.DatasetIterator
    put: Callable[[PyTree], Batch]
    train_step: Callable[[int | None], TrainStep]
    evaluator: Callable[..., dict[str, float]]
    score: Score
    checkpointer: Checkpointer
    recorder: Recorder | None
    state: TrainState
    step: int

    def __post_init__(self):
        """Start the records of the loop itself."""
        options = self.options
        self.metrics = MetricBuffer(options.max_skipped if options.on_nonfinite == "skip" else 0)
        self.saved_step, self.saved_at = self.step, time.monotonic()
        best = self.checkpointer.best_metrics()
        # A resumed run may have another score, which the best checkpoint's metrics lack.
        self.best = (best or {}).get(self.score.name)

    def advance(
        self, terminated: Callable[[], bool], after_step: Callable[[int, PyTree], None]
    ) -> None:
        """Take steps until the last one or a signal, then save."""
        options, stop = self.options, False
        while self.step < self.total_steps and not stop:
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
            if self.step % options.eval_every == 0 and self.step < self.total_steps:
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
            if jax.process_count() == 1:  # several processes could not agree to save
                self.save()
            raise

    def _record(self) -> None:
        metrics = self.metrics.mean()
        if metrics and self.recorder is not None:
            unrolled = self.options.unrolled_at(self.step - 1)
            self.recorder.train(self.step, metrics, "solve" if unrolled is None else "unrolled")

    def _checkpoint_is_due(self) -> bool:
        options = self.options
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
        started, unrolled = time.monotonic(), self.options.unrolled_at(self.step)
        metrics = self.evaluator(self.state.eval_variables, unrolled=unrolled)
        if self.recorder is not None:
            self.recorder.evaluation(self.step, metrics, time.monotonic() - started)
        if self.score.name not in metrics:
            raise ValueError(
                f"The experiment's score is {self.score.name!r}, but its evaluations have "
                f"{', '.join(metrics)}; name one of them."
            )
        value = metrics[self.score.name]
        if self.score.improves(value, self.best):
            self.best = value
            self.checkpointer.save_best(self.step, self.state, metrics)
        return metrics


def _resume_or_start(
    experiment: Experiment,
    checkpointer: Checkpointer,
    state: TrainState,
    batches: grain.DatasetIterator,
    mesh: Mesh,
) -> tuple[TrainState, int]:
    """Return the newest checkpoint's state and step, or the initial state with config.init_from."""
    source = experiment.config.init_from
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    restored = checkpointer.restore_latest(abstract, batches)
    if restored is not None:
        step, state = restored
        if source is not None and is_main():
            print(f"resumed at step {step}; config.init_from is not read again", file=sys.stderr)
        return state, step
    if source is None:
        return state, 0
    variables, left = experiment.load_weights(state.variables, source)
    if is_main():
        print(f"started from {source}; left at their initial values:", file=sys.stderr)
        print("\n".join(f"  {name}" for name in left or ["nothing"]), file=sys.stderr)
    collections = dict(replicate(variables, mesh))
    params = collections.pop("params")
    # A copy, because a step consumes both the parameters and their average.
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, collections=collections, ema=ema), 0


@contextlib.contextmanager
def _recording(
    experiment: Experiment, workdir: Path, step: int, total_steps: int
) -> Iterator[Recorder | None]:
    """Yield the recorder in the main process and None in all other processes."""
    if not is_main():
        yield None
        return
    config: RunConfig = experiment.config
    recorder = Recorder(
        workdir,
        step,
        total_steps=total_steps,
        batch_size=config.data.batch_size,
        sample=experiment.sample,
        progress=experiment.progress,
        adjoint_advice=adjoint_advice(config),
    )
    with contextlib.closing(recorder):
        yield recorder


def _opening(state: TrainState, devices: int, step: int, total_steps: int) -> str:
    """Return the line that is printed while the first step is compiled."""
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    return (
        f"{parameters:,} parameters, {devices} × {jax.devices()[0].device_kind}, step {step} of "
        f"{total_steps}" + "; compiling" * (step < total_steps)
    )


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
