"""Batches: shuffling, sharding, augmentation, exact resumption, and each test image once."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from itertools import islice

import numpy as np
import pytest

from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import (
    DatasetInfo,
    dataset_info,
    digits,
    eval_batches,
    find_dataset,
    train_iterator,
)

TRAIN, TEST, BATCH = 1437, 360, 64
STEPS_PER_EPOCH = TRAIN // BATCH


@pytest.fixture
def data(data_dir):
    return DataConfig(
        name="digits", dir=data_dir, batch_size=BATCH, eval_batch_size=128, augment=True
    )


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def rows(batches):
    """Hashable images, to count and compare them as sets."""
    return [image.tobytes() for batch in batches for image in batch["image"]]


def test_dataset_info(data):
    assert dataset_info(data) == DatasetInfo(
        train_examples=TRAIN,
        eval_examples=TEST,
        image_shape=(8, 8, 3),
    )


def test_what_is_known_before_the_data_is_there(data):
    dataset = find_dataset(replace(data, dir="/nowhere"))
    assert dataset.task == "classification"
    assert dataset.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def test_batch_shapes_and_dtypes(data):
    train, (test, *_) = next(train_iterator(data, seed=0)), eval_batches(data)
    assert train["image"].shape == (BATCH, 8, 8, 3)
    assert train["image"].dtype == np.uint8
    assert train["label"].shape == (BATCH,)
    assert train["label"].dtype == np.int32
    assert test["image"].shape == (128, 8, 8, 3)
    assert test["image"].dtype == np.uint8
    assert test["label"].dtype == np.int32
    assert test["mask"].dtype == np.bool_


def test_normalisation_and_order_against_scikit_learn(data):
    from sklearn.datasets import load_digits

    digits = load_digits()
    test_rows = np.random.RandomState(0).permutation(1797)[-TEST:]
    expected = np.repeat(((digits.images[test_rows] / 16 - 0.3) / 0.38)[..., None], 3, axis=-1)
    batches = list(eval_batches(data))
    mask = np.concatenate([batch["mask"] for batch in batches])
    images = np.concatenate([batch["image"] for batch in batches])[mask]
    labels = np.concatenate([batch["label"] for batch in batches])[mask]
    normalised = find_dataset(data).normalise(images)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, expected, atol=1e-6)
    np.testing.assert_array_equal(labels, digits.target[test_rows])


def test_an_epoch_holds_each_example_at_most_once_and_epochs_differ(data):
    iterator = train_iterator(replace(data, augment=False), seed=0)
    first, second = (list(islice(iterator, STEPS_PER_EPOCH)) for _ in range(2))
    unaugmented = set(rows(first)) | set(rows(second))
    assert len(set(rows(first))) == len(rows(first)) == STEPS_PER_EPOCH * BATCH
    assert len(unaugmented) <= TRAIN
    assert rows(first) != rows(second)
    # What one epoch drops must not be what every epoch drops.
    assert len(unaugmented) > STEPS_PER_EPOCH * BATCH


def test_train_and_test_are_disjoint(data):
    iterator = train_iterator(replace(data, augment=False), seed=0)
    train = set(rows(islice(iterator, 2 * STEPS_PER_EPOCH)))
    assert train.isdisjoint(rows(eval_batches(data)))


def test_seed_determines_the_batches(data):
    first, again, other = (next(train_iterator(data, seed=seed)) for seed in (1, 1, 2))
    assert_same(first, again)
    assert not np.array_equal(first["image"], other["image"])


def test_augmentation_shifts_by_at_most_one_pixel(data):
    plain = next(train_iterator(replace(data, augment=False), seed=0))
    shifted = next(train_iterator(data, seed=0))
    np.testing.assert_array_equal(plain["label"], shifted["label"])
    framed = np.pad(plain["image"], ((0, 0), (1, 1), (1, 1), (0, 0)))
    candidates = {
        (top, left): framed[:, top : top + 8, left : left + 8]
        for top in range(3)
        for left in range(3)
    }
    matches = {
        shift: (candidate == shifted["image"]).all(axis=(1, 2, 3))
        for shift, candidate in candidates.items()
    }
    assert np.all(np.any(list(matches.values()), axis=0))
    assert all(match.any() for match in matches.values())


def test_augmentation_differs_between_epochs(data):
    iterator = train_iterator(data, seed=0)
    first, second = (set(rows(islice(iterator, STEPS_PER_EPOCH))) for _ in range(2))
    # With nine equally likely shifts about 8/9 of the images differ from those before.
    assert len(second - first) > 0.7 * len(second)


@pytest.mark.parametrize("position", [0, 3, STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH + 5])
def test_resuming_continues_bit_identically(data, position):
    iterator = train_iterator(data, seed=3)
    for _ in range(position):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = list(islice(iterator, STEPS_PER_EPOCH + 2))
    fresh = train_iterator(data, seed=3)
    next(fresh)
    fresh.set_state(state)
    for reference in expected:
        assert_same(next(fresh), reference)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_global_batch_in_order(data, processes):
    single = train_iterator(data, seed=0)
    shares = [
        train_iterator(data, seed=0, process_index=index, process_count=processes)
        for index in range(processes)
    ]
    for _ in range(STEPS_PER_EPOCH + 3):
        parts = [next(share) for share in shares]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert_same(joined, next(single))


@pytest.mark.parametrize(("batch_size", "processes"), [(128, 1), (256, 4), (360, 1), (512, 2)])
def test_every_test_image_counts_once(data, batch_size, processes):
    data = replace(data, eval_batch_size=batch_size)
    shares = [
        list(eval_batches(data, process_index=index, process_count=processes))
        for index in range(processes)
    ]
    assert {len(share) for share in shares} == {-(-TEST // batch_size)}
    assert {len(batch["mask"]) for share in shares for batch in share} == {batch_size // processes}
    counted = [
        image.tobytes()
        for share in shares
        for batch in share
        for image in batch["image"][batch["mask"]]
    ]
    assert sorted(counted) == sorted(rows([{"image": unpadded(data)}]))


def unpadded(data):
    (batch,) = eval_batches(replace(data, eval_batch_size=TEST))
    assert batch["mask"].all()
    return batch["image"]


def test_unknown_name(data):
    data = replace(data, name="digitz")
    for call in (
        find_dataset,
        dataset_info,
        eval_batches,
        lambda config: train_iterator(config, seed=0),
    ):
        with pytest.raises(ValueError, match=r"name is 'digitz'; .* Did you mean digits"):
            call(data)


@pytest.mark.parametrize("field", ["image_size", "eval_image_size"])
def test_another_image_size(data, field):
    with pytest.raises(ValueError, match=rf"data\.{field} is \(16, 16\).*'digits' are \(8, 8\)"):
        dataset_info(replace(data, **{field: (16, 16)}))


def test_more_threads_yield_the_same_batches(data):
    threads = train_iterator(replace(data, threads=3), seed=0)
    for batch in islice(train_iterator(data, seed=0), STEPS_PER_EPOCH + 2):
        assert_same(next(threads), batch)


def test_as_many_threads_are_used_as_are_asked_for(data, monkeypatch):
    used = {1: set(), 4: set()}
    for threads, ours in used.items():
        # Iterators that other tests left behind may still be making batches.
        others = set(threading.enumerate())

        def slow(image, padding, generator, ours=ours, others=others):
            if (thread := threading.current_thread()) not in others:
                ours.add(thread)
            time.sleep(1e-4)
            return image

        monkeypatch.setattr(digits, "random_shift", slow)
        list(islice(train_iterator(replace(data, threads=threads), seed=0), 20))
    assert len(used[1]) == 1
    assert 1 < len(used[4]) <= 4


@pytest.mark.slow
def test_workers_yield_the_same_batches_at_any_position(data):
    workers = train_iterator(replace(data, workers=2, threads=2), seed=0)
    batches = list(islice(train_iterator(data, seed=0), STEPS_PER_EPOCH + 5))
    for batch in batches[:5]:
        assert_same(next(workers), batch)
    state = json.loads(json.dumps(workers.get_state()))
    workers.set_state({"next_index": STEPS_PER_EPOCH - 1})
    for batch in batches[STEPS_PER_EPOCH - 1 :]:
        assert_same(next(workers), batch)
    workers.close()
    elsewhere = train_iterator(data, seed=0)
    elsewhere.set_state(state)
    assert_same(next(elsewhere), batches[5])


@pytest.mark.parametrize(
    ("field", "size", "processes", "message"),
    [
        ("batch_size", 1438, 1, "data.batch_size is 1438, more than the 1437"),
        ("batch_size", 63, 2, "data.batch_size is 63.* multiple of 2"),
        ("eval_batch_size", 63, 2, "data.eval_batch_size is 63.* multiple of 2"),
    ],
)
def test_batch_sizes_that_do_not_fit(data, field, size, processes, message):
    data = replace(data, **{field: size})

    def call():
        if field == "batch_size":
            return train_iterator(data, seed=0, process_count=processes)
        return eval_batches(data, process_count=processes)

    with pytest.raises(ValueError, match=message):
        call()


def test_no_tensorflow_and_no_thread_keeps_the_process_alive(data):
    program = (
        "import sys\n"
        "from mdeq_jax.vision.config import DataConfig\n"
        "from mdeq_jax.vision.data import train_iterator\n"
        f"data = DataConfig(**{asdict(data)!r})\n"
        "next(train_iterator(data, seed=0))\n"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
