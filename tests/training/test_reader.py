"""Examples that cannot be read: replaced by the next, counted once each, and bounded."""

import pytest

from mdeq_jax.training.reader import BadRecordError, Reader


def reading(bad, limit, count=6):
    """A reader of 0, 1, ..., and what fails on the bad ones."""
    reader = Reader(list(range(count)), limit)

    def transform(raw):
        if raw in bad:
            raise BadRecordError(f"image_{raw}", "is bad.")
        return {"value": 10 * raw}

    return lambda index: reader.read(index, transform)


def test_the_next_takes_its_place():
    read = reading({2, 3, 5}, limit=3)
    assert [read(i).example["value"] for i in range(6)] == [0, 10, 40, 40, 40, 0]
    assert [read(i).index for i in range(6)] == [0, 1, 4, 4, 4, 0]


def test_each_is_counted_and_logged_once(caplog):
    read = reading({1, 4}, limit=2)
    for _ in range(5):
        for index in range(6):
            read(index)
    assert [record.getMessage() for record in caplog.records] == [
        "left out 1 of at most 2: image_1 is bad.",
        "left out 2 of at most 2: image_4 is bad.",
    ]


@pytest.mark.parametrize("limit", [0, 1])
def test_more_than_allowed(limit):
    read = reading({1, 4}, limit)
    message = rf"{limit + 1} examples .*max_bad_records={limit}; .*image_{(1, 4)[limit]} is bad"
    with pytest.raises(ValueError, match=message):
        [read(index) for index in range(6)]


def test_all_are_bad():
    with pytest.raises(ValueError, match="none of 6 examples can be read"):
        reading(set(range(6)), limit=100)(0)


def test_other_errors_are_none_of_its_business():
    with pytest.raises(ZeroDivisionError):
        Reader([0], 10).read(0, lambda raw: 1 / raw)
