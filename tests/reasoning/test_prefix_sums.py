"""Prefix sums, and the rules by which distinct problems of a split are drawn."""

import collections

import numpy as np
import pytest

from mdeq_jax.reasoning.data import prefix_sums
from mdeq_jax.reasoning.data.problems import split_of


def strings(problems):
    return [tuple(row) for row in (problems.inputs[:, 0, :, 0] > 0).astype(int)]


def every_string(bits):
    return (np.arange(2**bits)[:, None] >> np.arange(bits)).astype(np.uint8) & 1


def test_targets_are_parities_of_prefixes():
    inputs, targets, counted = prefix_sums.generate(count=50, bits=33, seed=0)
    assert (inputs.dtype, targets.dtype) == (np.float32, np.int32)
    assert set(np.unique(inputs)) == {-0.5, 0.5}
    for string, parities in zip(inputs[:, 0, :, 0] + 0.5, targets[:, 0], strict=True):
        assert [string[: i + 1].sum() % 2 for i in range(33)] == parities.tolist()
    assert counted.shape == targets.shape
    assert counted.all()


def test_train_and_test_share_no_string_and_have_them_all():
    split = collections.Counter(split_of(row) for row in every_string(7))
    train = strings(prefix_sums.generate(split["train"], 7, seed=0, split="train"))
    test = strings(prefix_sums.generate(split["test"], 7, seed=1, split="test"))
    assert len({*train, *test}) == len([*train, *test]) == 2**7


def test_more_strings_than_there_are():
    with pytest.raises(ValueError, match=r"count is 100, but only .* in the test split"):
        prefix_sums.generate(100, 5, seed=0, split="test")


def test_the_split_tells_nothing_of_a_parity():
    # A mean of 2^10 random signs has a standard error of 0.03; a linear checksum gives a mean of 1.
    bits = every_string(10)
    sign = np.array([1 if split_of(row) == "train" else -1 for row in bits])
    parities = (bits @ every_string(10).T) % 2
    assert np.abs(sign @ (1 - 2.0 * parities) / 2**10).max() < 0.2


def test_the_seed_determines_the_strings():
    first, again, other = (strings(prefix_sums.generate(20, 40, seed)) for seed in (3, 3, 4))
    assert first == again
    assert not set(first) & set(other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": 0}, "count is 0; it must be a whole number at least 1"),
        ({"count": 2.0}, "count is 2.0; it must be a whole number at least 1"),
        ({"bits": 0}, "bits is 0; it must be a whole number at least 1"),
        ({"seed": -1}, "seed is -1; it must be a whole number at least 0"),
        ({"split": "val"}, "split is 'val'; it must be one of 'train', 'test'"),
    ],
)
def test_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        prefix_sums.generate(**{"count": 2, "bits": 8, "seed": 0} | changed)
