"""Streams of a text: the rows of upstream's iterator, and their exact position."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mdeq_jax.language.config import DataConfig
from mdeq_jax.language.data.streams import Streams, eval_streams, train_streams

ARRAYS = np.load(Path(__file__).parents[1] / "fixtures/language/wikitext.npz")
ROWS, LENGTH = 4, 6
OPTIONS = DataConfig(batch_size=ROWS, eval_batch_size=ROWS, length=LENGTH)


def evaluation(tokens, **aligned):
    return list(eval_streams(tokens, OPTIONS, aligned, {"memory": np.int32(3)}))


def test_batches_are_those_of_upstream():
    first = next(train_streams(ARRAYS["train_ids"], OPTIONS))
    last = evaluation(ARRAYS["train_ids"])[-1]
    counted = last["counted"].sum(axis=1)
    for name, ours in (("data", "tokens"), ("target", "targets")):
        np.testing.assert_array_equal(first[ours], ARRAYS[f"train_batch0_{name}"].T)
        theirs = ARRAYS[f"train_last_{name}"].T
        np.testing.assert_array_equal(counted, theirs.shape[1])
        np.testing.assert_array_equal(last[ours][:, : theirs.shape[1]], theirs)
    np.testing.assert_array_equal(
        evaluation(ARRAYS["valid_ids"])[-1]["targets"][:, :1], ARRAYS["valid_last_target"].T
    )


def test_rows_continue_and_begin_anew_with_each_epoch():
    tokens = np.arange(ROWS * 20 + 3, dtype=np.int32)
    pieces = 3  # of 6 tokens, and a target after each
    batches = list(islice(train_streams(tokens, OPTIONS), 2 * pieces))
    for number, batch in enumerate(batches):
        step = number % pieces
        expected = np.arange(ROWS)[:, None] * 20 + step * LENGTH + np.arange(LENGTH)
        np.testing.assert_array_equal(batch["tokens"], expected)
        np.testing.assert_array_equal(batch["targets"], expected + 1)
        np.testing.assert_array_equal(batch["reset"], step == 0)


def test_the_position_is_saved_exactly():
    tokens = np.random.default_rng(0).integers(0, 99, 500).astype(np.int32)
    batches = train_streams(tokens, OPTIONS)
    list(islice(batches, 7))
    state, resumed = batches.get_state(), train_streams(tokens, OPTIONS)
    resumed.set_state(state)
    for left, right in islice(zip(batches, resumed, strict=True), 30):
        np.testing.assert_array_equal(left["tokens"], right["tokens"])
        np.testing.assert_array_equal(left["reset"], right["reset"])


def test_evaluation_takes_each_token_once():
    tokens = np.arange(ROWS * 20 + 3, dtype=np.int32)
    batches = evaluation(tokens, weight=tokens / 2)
    assert len(batches) == 4
    counted = [batch["targets"][batch["counted"]] for batch in batches]
    rows = np.arange(ROWS * 20).reshape(ROWS, 20)
    np.testing.assert_array_equal(np.sort(np.concatenate(counted)), rows[:, 1:].ravel())
    for batch in batches:
        np.testing.assert_array_equal(batch["weight"], batch["targets"] / 2)
        assert batch["mask"].all()
        np.testing.assert_array_equal(batch["memory"], 3)


@pytest.mark.parametrize(("whole", "enough"), [(True, ROWS * 7), (False, ROWS * 2)])
def test_a_text_that_is_too_small(whole, enough):
    Streams(np.zeros(enough), ROWS, LENGTH).require_a_piece("test", whole=whole)
    with pytest.raises(ValueError, match=rf"'test' has {enough - 1} tokens, too few for 4 rows of"):
        Streams(np.zeros(enough - 1), ROWS, LENGTH).require_a_piece("test", whole=whole)
