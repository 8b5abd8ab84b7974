"""Official archives: checked before use, and prepared by the stock builders of TFDS."""

import hashlib
import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from archives import (
    cifar_images,
    imagenet_files,
    write_cifar_archive,
    write_imagenet_archives,
)
from folders import COUNTS, cityscapes_files, write_archives
from invoke import invoke
from PIL import Image
from tensorflow_datasets.core.download import checksums

from mdeq_jax.commands import prepare as command
from mdeq_jax.images.decoding import decode
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import eval_batches, find_dataset, train_iterator
from mdeq_jax.vision.data.cityscapes import CLASS_OF_ID
from mdeq_jax.vision.data.classification_transforms import centre
from mdeq_jax.vision.data.imagenet2012 import class_names
from mdeq_jax.vision.data.prepared import ARCHIVES

WRITE = {
    "cifar10": write_cifar_archive,
    "imagenet2012": lambda folder: write_imagenet_archives(folder, imagenet_files()),
    "cityscapes": lambda folder: write_archives(folder, *cityscapes_files()),
}


def run(name, folder, data_dir, *flags):
    arguments = (f"--name={name}", f"--source={folder}", f"--data-dir={data_dir}", *flags)
    return invoke(command.run, *arguments)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "archives"


@pytest.mark.parametrize("name", ARCHIVES)
def test_what_to_put_where(name, folder, tmp_path, capsys):
    WRITE[name](folder)
    for archive in ARCHIVES[name].names:
        (folder / archive).rename(tmp_path / "elsewhere")
        assert run(name, folder, tmp_path / "tfds", "--partial") == 2
        message = capsys.readouterr().err
        names = " and ".join(ARCHIVES[name].names)
        assert f"{folder / archive} does not exist; put {names}, from https://" in message
        (tmp_path / "elsewhere").rename(folder / archive)


@pytest.mark.parametrize("name", ARCHIVES)
def test_tensorflow_is_needed(name, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    WRITE[name](folder)
    assert run(name, folder, tmp_path / "tfds", "--partial") == 2
    assert "pip install -r requirements-prepare.txt" in capsys.readouterr().err
    assert not (tmp_path / "tfds").exists()


def test_imagenet_of_other_counts(folder, tmp_path, capsys):
    write_imagenet_archives(folder, imagenet_files(train=20, val=5))
    assert run("imagenet2012", folder, tmp_path) == 2
    assert (
        "img_val.tar has 5 members, but the official archive has 50000" in capsys.readouterr().err
    )


@pytest.mark.parametrize("archive", ARCHIVES["imagenet2012"].names)
def test_imagenet_half_copied(folder, tmp_path, capsys, archive):
    write_imagenet_archives(folder, imagenet_files(train=20, val=5, classes=20))
    content = (folder / archive).read_bytes().rstrip(b"\0")
    (folder / archive).write_bytes(content[:-200])
    assert run("imagenet2012", folder, tmp_path, "--partial") == 2
    assert f"{folder / archive} is not a complete tar file" in capsys.readouterr().err


def test_cityscapes_of_other_counts(folder, tmp_path, capsys):
    WRITE["cityscapes"](folder)
    assert run("cityscapes", folder, tmp_path) == 2
    assert "official archive holds" in capsys.readouterr().err


def accept(monkeypatch, archive):
    """Register an archive of few images as the official one."""
    content = archive.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    registered = checksums.UrlInfo(size=len(content), checksum=digest, filename=archive.name)
    known = tfds.builder_cls("cifar10").url_infos
    monkeypatch.setitem(known, ARCHIVES["cifar10"].site, registered)


def label_of(images, labels):
    return {image.tobytes(): label for image, label in zip(images, labels, strict=True)}


def test_cifar10(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorflow")
    write_cifar_archive(folder)
    assert run("cifar10", folder, tmp_path / "tfds") == 2
    assert f"an archive in {folder} is not the official one" in capsys.readouterr().err
    accept(monkeypatch, folder / "cifar-10-binary.tar.gz")
    assert run("cifar10", folder, tmp_path / "tfds") == 0
    assert json.loads(capsys.readouterr().out)["folder"].startswith(str(tmp_path / "tfds"))
    data = DataConfig(
        name="cifar10", dir=str(tmp_path / "tfds"), image_size=(32, 32), eval_batch_size=60
    )
    (batch,) = eval_batches(data)
    images, labels = cifar_images(60, 5)
    assert label_of(batch["image"], batch["label"]) == label_of(images, labels)
    assert next(train_iterator(data, seed=0))["image"].shape == (64, 32, 32, 3)


def test_imagenet2012(folder, tmp_path):
    """Validation labels are the first of the official ones."""
    pytest.importorskip("tensorflow")
    files = imagenet_files()
    write_imagenet_archives(folder, files)
    assert run("imagenet2012", folder, tmp_path / "tfds", "--partial") == 0
    data = DataConfig(
        name="imagenet2012", dir=str(tmp_path / "tfds"), image_size=(32, 32), eval_batch_size=60
    )
    (batch,) = eval_batches(data)
    expected = {
        centre(decode(content, ""), (32, 32)).tobytes() for content in files["val"].values()
    }
    assert {image.tobytes() for image in batch["image"]} == expected
    first = centre(decode(files["val"]["ILSVRC2012_val_00000001.JPEG"], ""), (32, 32))
    (place,) = np.flatnonzero((batch["image"] == first).all(axis=(1, 2, 3)))
    assert class_names()[batch["label"][place]] == "n01751748"
    labels = [next(train_iterator(data, seed=seed))["label"] for seed in range(3)]
    assert len(np.unique(labels)) > 100


def test_cityscapes(folder, tmp_path):
    pytest.importorskip("tensorflow")
    images, annotations = cityscapes_files()
    write_archives(folder, images, annotations)
    assert run("cityscapes", folder, tmp_path / "tfds", "--partial") == 0
    source = find_dataset(DataConfig(name="cityscapes", dir=str(tmp_path / "tfds"))).open_eval()
    assert len(source) == COUNTS["val"]
    for example in map(source.__getitem__, range(len(source))):
        stem = f"val/frankfurt/{example['name']}"
        image = decode(images[f"leftImg8bit/{stem}_leftImg8bit.png"], "")
        np.testing.assert_array_equal(example["image"], image)
        (tmp_path / "ids.png").write_bytes(annotations[f"gtFine/{stem}_gtFine_labelIds.png"])
        ids = np.asarray(Image.open(tmp_path / "ids.png"))
        np.testing.assert_array_equal(example["label"], CLASS_OF_ID[ids])
