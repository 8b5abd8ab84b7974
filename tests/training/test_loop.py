"""The training loop where something fails in it; whole runs are in test_commands.py."""

import dataclasses

import jax
import pytest

from mdeq_jax.training import loop
from mdeq_jax.training.metrics import MetricBuffer
from mdeq_jax.vision.config import Config, TrainConfig


class Run(loop._Run):
    """A run of steps that do nothing, whose data fail at one step or in the first evaluation."""

    def __init__(self, last_batch, error):
        options = TrainConfig(eval_every=20, checkpoint_seconds=1000, log_every=1000)
        self.config = dataclasses.replace(Config(), train=options)
        self.step = self.saved_step = 0
        self.saved_at, self.total, self.state = 1e9, 40, None
        self.metrics, self.put = MetricBuffer(), lambda batch: batch
        self.train_step = lambda _: lambda state, _: (state, {"loss": 0.0, "grad_norm": 0.0})
        self.batches, self.error = self._until(last_batch, error), error

    def _until(self, last, error):
        yield from range(last)
        raise error

    def evaluate(self):
        raise self.error

    def save(self):
        self.saved_step = self.step


@pytest.mark.parametrize(("last_batch", "saved"), [(13, 13), (100, 20)])
@pytest.mark.parametrize("error", [ValueError, OSError, jax.errors.JaxRuntimeError])
def test_data_or_evaluation_that_fail_lose_no_step(error, last_batch, saved):
    run = Run(last_batch, error("of a file"))
    with pytest.raises(error, match="of a file"):
        run.advance(lambda: False, lambda *_: None)
    assert run.saved_step == saved
