"""Loaders of any data: order, shares of processes, exact resumption, and records that are bad."""

import json
import os
from itertools import islice

import grain
import numpy as np
import pytest

from mdeq_jax.training.config import DataConfig
from mdeq_jax.training.loaders import eval_batches, ordered_batches, shuffled_batches
from mdeq_jax.training.reader import BadRecordError

COUNT, ROWS = 23, 4
EPOCH = COUNT // ROWS  # batches


def options(**changes):
    return DataConfig(
        **{"batch_size": ROWS, "eval_batch_size": ROWS, "max_bad_records": 2, **changes}
    )


def example(record, generator=None):
    noise = {} if generator is None else {"noise": generator.random()}
    return {"value": np.int32(record), **noise}


def failing(*bad):
    """A transform that cannot read some of the records."""

    def transform(record, generator=None):
        if record in bad:
            raise BadRecordError(f"record_{record}", "is bad.")
        return example(record, generator)

    return transform


def shuffled(transform=example, seed=0, process_index=0, process_count=1, **changes):
    return shuffled_batches(
        range(COUNT),
        transform,
        options(**changes),
        seed=seed,
        process_index=process_index,
        process_count=process_count,
    )


def ordered(transform=example, process_index=0, process_count=1, count=COUNT, **changes):
    return ordered_batches(
        range(count),
        transform,
        options(**changes),
        process_index=process_index,
        process_count=process_count,
    )


def evaluated(transform=example, process_index=0, process_count=1, **changes):
    return eval_batches(
        range(COUNT),
        transform,
        options(**changes),
        process_index=process_index,
        process_count=process_count,
    )


def taken(batches, count=None, key="value"):
    """One entry of some batches, as a list of lists."""
    return [batch[key].tolist() for batch in islice(batches, count)]


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key])


def test_shuffled_epochs_follow_grains_order():
    order = grain.MapDataset.range(COUNT).seed(5).shuffle().repeat(2)
    epochs = [[order[epoch * COUNT + i] for i in range(EPOCH * ROWS)] for epoch in range(2)]
    assert epochs[0] != epochs[1]
    found = np.concatenate(taken(shuffled(seed=5), 2 * EPOCH)).tolist()
    assert found == epochs[0] + epochs[1]
    assert len(set(epochs[0])) == EPOCH * ROWS


def test_shuffled_draws_differ_by_example_and_epoch_and_follow_the_seed():
    first, again, other = (taken(shuffled(seed=s), 2 * EPOCH, "noise") for s in (0, 0, 1))
    assert first == again
    assert len(np.unique(first)) == 2 * EPOCH * ROWS
    assert not set(np.ravel(first)) & set(np.ravel(other))


def test_ordered_rows_are_streams():
    assert taken(ordered(count=11, batch_size=3), 4) == [[0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 3, 6]]
    resets = taken(ordered(count=11, batch_size=3), 4, "reset")
    assert resets == [[True] * 3, [False] * 3, [False] * 3, [True] * 3]


def test_ordered_streams_restart_where_an_example_says_so():
    def transform(record):
        return {"value": np.int32(record), "reset": record in (3, 4, 8)}

    assert taken(ordered(transform, count=11, batch_size=3), 3, "reset") == [
        [True, True, True],
        [False, True, False],
        [False, False, True],
    ]


def test_ordered_streams_restart_at_what_stands_in_for_a_bad_record():
    batches = list(islice(ordered(failing(4), count=11, batch_size=3), 3))
    assert taken(batches) == [[0, 3, 6], [1, 5, 7], [2, 5, 8]]
    assert taken(batches, key="reset")[1:] == [[False, True, False], [False] * 3]


@pytest.mark.parametrize("make", [shuffled, ordered])
@pytest.mark.parametrize("position", [0, 2, EPOCH, EPOCH + 3])
def test_resuming_continues_exactly(make, position):
    iterator = make()
    list(islice(iterator, position))
    state = json.loads(json.dumps(iterator.get_state()))
    expected = list(islice(iterator, EPOCH + 2))
    fresh = make(threads=3)
    next(fresh)
    fresh.set_state(state)
    for batch in expected:
        assert_same(next(fresh), batch)


@pytest.mark.parametrize("make", [shuffled, ordered, evaluated])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_rows_in_order(make, processes):
    shares = [make(process_index=i, process_count=processes) for i in range(processes)]
    for whole in islice(make(), EPOCH + 1):
        parts = [next(share) for share in shares]
        assert_same({key: np.concatenate([part[key] for part in parts]) for key in whole}, whole)


@pytest.mark.parametrize("make", [shuffled, ordered])
def test_bad_records_are_replaced_by_the_next(make):
    plain, mended = (np.ravel(taken(make(t), EPOCH)) for t in (example, failing(7, 8)))
    np.testing.assert_array_equal(mended, np.where(np.isin(plain, (7, 8)), 9, plain))


@pytest.mark.parametrize("make", [shuffled, ordered, evaluated])
def test_more_bad_records_than_allowed(make):
    with pytest.raises(ValueError, match="3 examples cannot be read"):
        list(islice(make(failing(1, 2, 3)), 2 * EPOCH))


@pytest.mark.parametrize("size", [1, 4, 23, 30])
def test_eval_counts_each_readable_record_once_and_in_order(size):
    batches = list(evaluated(failing(7, 22), eval_batch_size=size))
    assert {len(batch["mask"]) for batch in batches} == {size}
    counted = np.concatenate([batch["value"][batch["mask"]] for batch in batches])
    assert counted.tolist() == [i for i in range(COUNT) if i not in (7, 22)]


@pytest.mark.parametrize("make", [shuffled, ordered])
def test_a_batch_above_the_number_of_records(make):
    with pytest.raises(ValueError, match=r"data\.batch_size is 24, more than the 23 .* examples"):
        make(batch_size=24)


@pytest.mark.parametrize(
    ("make", "key"),
    [(shuffled, "batch_size"), (ordered, "batch_size"), (evaluated, "eval_batch_size")],
)
def test_a_batch_that_processes_cannot_share(make, key):
    with pytest.raises(ValueError, match=rf"data\.{key} is 4, .* use a multiple of 3"):
        make(process_count=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_every_process_is_prepared_before_its_first_batch(workers, monkeypatch):
    monkeypatch.delenv("PREPARED", raising=False)

    def prepare():
        os.environ["PREPARED"] = str(os.getpid())

    def transform(record):
        own = str(os.getpid())
        return {
            "value": record,
            "prepared": os.environ["PREPARED"] == own,
            "pid": os.getpid(),
        }

    batches = ordered_batches(
        range(COUNT), transform, options(workers=workers), prepare_process=prepare
    )
    first, second = islice(batches, 2)
    batches.close()
    assert first["prepared"].all()
    assert (first["pid"][0] == os.getpid()) == (workers == 0)
    assert second["value"].tolist() == taken(ordered(), 2)[1]
