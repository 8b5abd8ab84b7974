"""Digit scenes: what is drawn and how it is labelled, held-out parts, and batches."""

from itertools import islice
from unittest import mock

import numpy as np
import pytest

from mdeq_jax.images.digits import load_raw
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import (
    dataset_info,
    digit_scenes,
    embedded,
    eval_batches,
    find_dataset,
    train_iterator,
)

SOLID = np.full((1, 8, 8, 1), 16, np.uint8)


@pytest.fixture(scope="module", autouse=True)
def few():
    """Prepare a sixth of the scenes, which take seconds otherwise."""
    with mock.patch.dict(digit_scenes.SCENES, train=500):
        yield


@pytest.fixture
def data(data_dir):
    return DataConfig(
        name="digit_scenes", dir=data_dir, batch_size=32, eval_batch_size=64, image_size=(64, 64)
    )


def flat_photo(grey):
    return np.full((200, 200, 3), grey, np.uint8)


def test_info(data):
    info = dataset_info(data)
    assert (info.train_examples, info.eval_examples) == (500, 200)
    assert info.image_shape == (64, 64, 3)
    dataset = find_dataset(data)
    assert dataset.eval_image_size() == (64, 64)
    assert len(dataset.class_names) == 11
    assert dataset.class_names[:3] == ("background", "0", "1")
    assert dataset.task == "segmentation"


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_all_classes_and_void(data_dir, split):
    scenes = embedded.load_split(digit_scenes.DigitScenes, data_dir, split)
    labels = np.stack([scene["label"][..., 0] for scene in scenes])
    assert labels.dtype == np.uint8
    assert labels.shape[1:] == (64, 64)
    assert set(np.unique(labels)) == {*range(11), 255}
    assert all(scene["image"].shape == (64, 64, 3) for scene in scenes)


def test_preparing_again_gives_the_same_scenes(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(digit_scenes, "SCENES", {"train": 20, "test": 20})
    for split in ("train", "test"):
        again = embedded.load_split(digit_scenes.DigitScenes, str(tmp_path), split)
        before = embedded.load_split(digit_scenes.DigitScenes, data_dir, split)
        for left, right in zip(again, before[:20], strict=True):
            np.testing.assert_array_equal(left["image"], right["image"])
            np.testing.assert_array_equal(left["label"], right["label"])


def test_splits_share_neither_digits_nor_parts_of_photographs(monkeypatch, tmp_path):
    """Photographs whose pixels say their column, and every digit that a split draws."""
    columns = np.broadcast_to(np.arange(640) // 3, (427, 640))
    photo = np.stack([columns] * 3, axis=-1).astype(np.uint8)
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: Photos([photo, photo]))
    seen = {}

    def record(photo, digits, labels, generator):
        digit_bytes, values = seen.setdefault(split, (set(), set()))
        digit_bytes.update(digit.tobytes() for digit in digits)
        values.update(photo[0].ravel())  # every row is the same
        return np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)

    monkeypatch.setattr(digit_scenes, "compose", record)
    builder = digit_scenes.DigitScenes(data_dir=tmp_path)
    raw = load_raw()
    for split in ("train", "test"):
        assert len(list(builder._generate_examples(split))) == digit_scenes.SCENES[split]
        allowed = {image.tobytes() for image in raw.images[raw.rows[split]]}
        assert seen[split][0] <= allowed
        assert len(seen[split][0]) > 250
    assert seen["train"][1].isdisjoint(seen["test"][1] - {448 // 3})
    assert set(raw.rows["train"]).isdisjoint(raw.rows["test"])


class Photos:
    def __init__(self, images):
        self.images = images


def test_without_digits_a_scene_is_background():
    nothing = np.zeros((0, 8, 8, 1), np.uint8)
    image, label = digit_scenes.compose(
        flat_photo(90), nothing, np.zeros(0, int), np.random.default_rng(0)
    )
    assert (image == 45).all()  # half as bright
    assert (label == 0).all()


@pytest.mark.parametrize("grey", [200, 50])
def test_a_digit_stands_out_where_its_label_says(grey):
    """At least 3/4 of a colour within 0.35 of white; elsewhere at most 1/4 of it."""
    raw, behind = load_raw(), grey // 2
    for number in range(20):
        image, label = digit_scenes.compose(
            flat_photo(grey), raw.images[[number]], raw.labels[[number]], np.random.default_rng(0)
        )
        ink = label == raw.labels[number] + 1
        assert ink.sum() > 20
        assert set(np.unique(label)) == {0, raw.labels[number] + 1, 255}
        assert image[ink].min() >= 0.75 * 0.65 * 255 + 0.25 * behind - 1
        assert image[label == 0].min() == behind
        assert image[label == 0].max() <= behind + 0.25 * (255 - behind) + 1


def test_the_nearest_digit_hides_those_behind():
    digits = np.repeat(SOLID, 5, axis=0)
    hidden = 0
    for seed in range(20):
        _, label = digit_scenes.compose(
            flat_photo(0), digits, np.arange(5), np.random.default_rng(seed)
        )
        rows, columns = np.nonzero(label == 5)
        side = np.ptp(rows) + 1
        assert len(rows) == side**2  # the last one is a whole square
        assert np.ptp(columns) + 1 == side
        areas = [(label == value).sum() for value in range(1, 5)]
        assert max(areas) <= side**2  # and the largest
        hidden += sum(np.sqrt(area) % 1 != 0 for area in areas)
    assert hidden > 0


def test_batches(data):
    train, (test, *rest) = next(train_iterator(data, seed=0)), eval_batches(data)
    assert train["image"].shape == (32, 64, 64, 3)
    assert train["image"].dtype == np.uint8
    assert train["label"].shape == (32, 64, 64)
    assert train["label"].dtype == np.int32
    assert train["image_label"].shape == (32,)
    assert train["image_label"].dtype == np.int32
    assert {*train, "mask"} == {*test}
    assert [batch["mask"].sum() for batch in (test, *rest)] == [64, 64, 64, 8]


@pytest.mark.parametrize("augment", [True, False])
def test_an_images_label_is_the_digit_of_the_most_pixels(data, augment):
    data = DataConfig(**{**vars(data), "augment": augment})
    for batch in islice(train_iterator(data, seed=0), 5):
        counts = np.stack([(batch["label"] == k).sum(axis=(1, 2)) for k in range(1, 11)], axis=1)
        np.testing.assert_array_equal(batch["image_label"], 1 + counts.argmax(axis=1))
        assert len(np.unique(batch["image_label"])) > 5


def test_background_is_an_images_label_only_where_no_digit_is_seen():
    label = np.zeros((64, 64), np.int32)
    label[2] = 255
    assert digit_scenes._with_image_label({"label": label})["image_label"] == 0
    label[0, :2] = 3
    label[1, :3] = 7
    assert digit_scenes._with_image_label({"label": label})["image_label"] == 7


def test_augmentation_changes_size_and_colours_within_bounds():
    """A scene half red, half black: half of the image is one colour, of any of the three."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32, 0] = 255
    label = (image[..., :1] > 0).astype(np.uint8)
    colours, widths = set(), set()
    for seed in range(200):
        result = digit_scenes._augmented(
            {"image": image, "label": label}, np.random.default_rng(seed)
        )
        bright = result["image"] > 200
        (colour,) = np.flatnonzero(bright.any(axis=(0, 1)))
        colours.add(int(colour))
        widths.add(int((result["label"][0] == 1).sum()))
        assert not (bright[..., colour] & (result["label"] != 1)).any()
    assert colours == {0, 1, 2}
    assert max(widths) == 35  # the red half of 70 columns, 64 · 1.1
    assert min(widths) == 29  # of 58 columns, 64 · 0.9; and what a crop may leave of 35


def test_another_image_size(data):
    with pytest.raises(ValueError, match=r"data\.image_size is \(32, 64\).*are \(64, 64\)"):
        dataset_info(DataConfig(name="digit_scenes", dir=data.dir, image_size=(32, 64)))
