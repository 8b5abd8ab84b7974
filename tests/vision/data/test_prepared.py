"""CIFAR-10 and ImageNet as TFDS prepares them, read without TensorFlow."""

import shutil
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from archives import (
    Cifar10,
    Imagenet2012,
    cifar_images,
    imagenet_files,
    prepare_without_tensorflow,
)

from mdeq_jax.images.decoding import decode
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import dataset_info, eval_batches, find_dataset, train_iterator
from mdeq_jax.vision.data.classification_transforms import centre
from mdeq_jax.vision.data.imagenet2012 import class_names


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Cifar10, Imagenet2012):
        prepare_without_tensorflow(builder, folder)
    return folder


@pytest.fixture
def cifar(tfds_dir):
    return DataConfig(
        name="cifar10", dir=str(tfds_dir), batch_size=50, eval_batch_size=20, image_size=(32, 32)
    )


@pytest.fixture
def imagenet(tfds_dir):
    return DataConfig(
        name="imagenet2012",
        dir=str(tfds_dir),
        batch_size=40,
        eval_batch_size=60,
        image_size=(32, 32),
    )


def by_bytes(images, labels):
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


def test_cifar_is_its_images(cifar):
    info = dataset_info(cifar)
    assert (info.train_examples, info.eval_examples) == (300, 60)
    assert find_dataset(cifar).class_names[::3] == ("airplane", "cat", "frog", "truck")
    batches = list(eval_batches(cifar))
    images, labels = (np.concatenate([b[key] for b in batches]) for key in ("image", "label"))
    assert images.dtype == np.uint8
    assert by_bytes(images, labels) == by_bytes(*cifar_images(60, 5))
    plain = list(islice(train_iterator(replace(cifar, augment=False), seed=0), 6))
    images, labels = (np.concatenate([b[key] for b in plain]) for key in ("image", "label"))
    expected = [pair for seed in range(5) for pair in by_bytes(*cifar_images(60, seed))]
    assert by_bytes(images, labels) == sorted(expected)


def test_cifar_augmented_is_shifted_and_mirrored(cifar):
    """Of the same examples in the same order: each is one of 81 windows, or its mirror image."""
    plain = next(train_iterator(replace(cifar, augment=False), seed=0))
    augmented = next(train_iterator(cifar, seed=0))
    np.testing.assert_array_equal(augmented["label"], plain["label"])
    framed = np.pad(plain["image"], ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (32, 32), axis=(1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3)  # (50, 9, 9, 32, 32, 3)
    for example, found in zip(windows, augmented["image"], strict=True):
        straight = (example == found).all(axis=(2, 3, 4)).any()
        mirrored = (example == found[:, ::-1]).all(axis=(2, 3, 4)).any()
        assert straight or mirrored


def test_cifar_is_normalised_as_by_the_originals(cifar):
    white = find_dataset(cifar).normalise(np.full((1, 1, 3), 255, np.uint8))
    expected = [(1 - 0.4914) / 0.2023, (1 - 0.4822) / 0.1994, (1 - 0.4465) / 0.2010]
    np.testing.assert_allclose(white[0, 0], expected, rtol=1e-5)


def test_imagenet_is_its_images(imagenet):
    info = dataset_info(imagenet)
    assert (info.train_examples, info.eval_examples) == (240, 60)
    assert info.image_shape == (32, 32, 3)
    (batch,) = eval_batches(imagenet)
    files = imagenet_files()["val"].values()
    expected = [centre(decode(content, ""), (32, 32)) for content in files]
    assert by_bytes(batch["image"], batch["label"]) == by_bytes(expected, range(60))
    assert class_names()[:2] == ("n01440764", "n01443537")
    assert len(set(class_names())) == 1000


def test_imagenet_trains_on_crops_of_each_image_once_an_epoch(imagenet):
    batches = list(islice(train_iterator(imagenet, seed=0), 12))
    assert {batch["image"].shape for batch in batches} == {(40, 32, 32, 3)}
    labels = np.sort(np.concatenate([batch["label"] for batch in batches]))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(240), 2))


def test_no_tensorflow(cifar, imagenet):
    for data in (cifar, imagenet):
        next(train_iterator(data, seed=0))
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012"])
def test_what_is_not_prepared(tmp_path, name):
    data = DataConfig(name=name, dir=str(tmp_path), image_size=(32, 32))
    message = (
        rf"{tmp_path}/{name}.* does not exist; put .*, from https://.*, into a folder DIR, and run "
        rf"`python -m mdeq_jax\.commands\.prepare --name={name} --source=DIR --data-dir={tmp_path}`"
    )
    with pytest.raises(ValueError, match=message):
        dataset_info(data)
    assert not list(tmp_path.iterdir())


def test_what_is_prepared_without_an_archive(imagenet, tmp_path):
    class TrainAlone(Imagenet2012, skip_registration=True):
        name = "imagenet2012"

        def _split_generators(self, dl_manager):
            return {"train": super()._split_generators(dl_manager)["train"]}

    prepare_without_tensorflow(TrainAlone, tmp_path)
    with pytest.raises(ValueError, match=r"has no split 'validation', only train; .*all archives"):
        dataset_info(replace(imagenet, dir=str(tmp_path)))


@pytest.fixture
def copy(tfds_dir, tmp_path):
    """A copy of CIFAR-10 to damage: its folder, and the file of the training split."""
    shutil.copytree(tfds_dir / "cifar10", tmp_path / "cifar10")
    folder = tmp_path / "cifar10/3.0.2"
    (train,) = folder.glob("cifar10-train.array_record*")
    return folder, train


def damage(path):
    """Break one group of records in the middle of a file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = bytes(50)
    path.write_bytes(content)


def test_a_corrupt_record(cifar, copy, tmp_path, caplog):
    damage(copy[1])
    data = replace(cifar, dir=str(tmp_path), augment=False)
    batches = [list(islice(train_iterator(data, seed=0), 6)) for _ in range(2)]
    for left, right in zip(*batches, strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])
    assert f"of train in {copy[0]} cannot be read (Corrupted" in caplog.text
    with pytest.raises(ValueError, match=r"max_bad_records=0; .*The last: record \d+ of train in"):
        list(islice(train_iterator(replace(data, max_bad_records=0), seed=0), 6))


def test_a_folder_that_vanishes(cifar, copy, tmp_path):
    batches = train_iterator(replace(cifar, dir=str(tmp_path)), seed=0)
    shutil.rmtree(copy[0])
    with pytest.raises(OSError, match=f"the data folder {copy[0]} has vanished"):
        next(batches)
