"""The training loop on parts that do nothing; whole runs are in test_commands.py."""

from unittest import mock

import jax
import pytest

from mdeq_jax.training.config import TrainConfig
from mdeq_jax.training.experiment import Score
from mdeq_jax.training.loop import Loop
from mdeq_jax.training.state import TrainState

ACCURACY = Score("eval/accuracy")
STATE = TrainState(step=0, params={}, collections={}, opt_state=(), key=0)


def make_run(batches, evaluator, score=ACCURACY, best=None):
    """A run of 40 steps that do nothing, with an evaluation after 20, and its checkpointer."""
    checkpointer = mock.Mock()
    checkpointer.best_metrics.return_value = best
    run = Loop(
        options=TrainConfig(eval_every=20, checkpoint_seconds=1000, log_every=1000),
        total_steps=40,
        batches=batches,
        put=lambda batch: batch,
        train_step=lambda _: lambda state, _: (state, {"loss": 0.0, "grad_norm": 0.0}),
        evaluator=evaluator,
        score=score,
        checkpointer=checkpointer,
        recorder=None,
        state=STATE,
        step=0,
    )
    return run, checkpointer


@pytest.mark.parametrize(("last_batch", "saved"), [(13, 13), (100, 20)])
@pytest.mark.parametrize("error", [ValueError, OSError, jax.errors.JaxRuntimeError])
def test_data_or_evaluation_that_fail_lose_no_step(error, last_batch, saved):
    def until_last():
        yield from range(last_batch)
        raise error("of a file")

    batches = until_last()
    run, checkpointer = make_run(batches, mock.Mock(side_effect=error("of a file")))
    with pytest.raises(error, match="of a file"):
        run.advance(lambda: False, lambda *_: None)
    assert run.saved_step == saved
    checkpointer.save.assert_called_once_with(saved, STATE, batches)


@pytest.mark.parametrize(
    ("score", "best", "kept"),
    [
        (Score("eval/x"), None, [3.0, 4.0]),
        (Score("eval/x"), {"eval/x": 3.5}, [4.0]),
        (Score("eval/x", higher_is_better=False), None, [3.0, 1.0]),
        (Score("eval/x", higher_is_better=False), {"eval/x": 2.0}, [1.0]),
    ],
)
def test_the_best_evaluation_so_far_is_kept(score, best, kept):
    evaluations = [{"eval/x": value} for value in (3.0, 3.0, 1.0, 4.0)]
    run, checkpointer = make_run(iter([]), mock.Mock(side_effect=evaluations), score, best)
    assert [run.evaluate() for _ in evaluations] == evaluations
    assert checkpointer.save_best.call_args_list == [
        mock.call(0, STATE, {"eval/x": value}) for value in kept
    ]


def test_a_score_that_no_evaluation_has_is_named():
    run, _ = make_run(iter([]), lambda *_, **__: {"eval/loss": 1.0})
    with pytest.raises(ValueError, match=r"score is 'eval/accuracy', .* have eval/loss; name one"):
        run.evaluate()
