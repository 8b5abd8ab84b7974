"""Cityscapes: its label table, and the same images through TFDS and from extracted archives."""

import io
import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import tensorflow_datasets as tfds
from folders import cityscapes_files, encode, label_names, write_extracted
from PIL import Image

from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import dataset_info, eval_batches, find_dataset, train_iterator
from mdeq_jax.vision.data.cityscapes import CLASS_OF_ID
from mdeq_jax.vision.data.cityscapes_labels import (
    CLASS_NAMES,
    CLASSES,
    LABEL_IDS,
    LABELS,
    PALETTE,
)

# `label_mapping` in `lib/datasets/cityscapes.py`, locuslab/deq.
ORIGINAL = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11},
    **{25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}


class Cityscapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes what the stock builder writes, which stays the one that reads."""

    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="semantic_segmentation", version="1.0.0"),)

    def _info(self):
        image = tfds.features.Image(shape=(1024, 2048, 3), encoding_format="png")
        label = tfds.features.Image(shape=(1024, 2048, 1), encoding_format="png", use_colormap=True)
        features = {
            "image_id": tfds.features.Text(),
            "image_left": image,
            "segmentation_label": label,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        files = cityscapes_files()
        names = {"train": "train", "validation": "val", "test": "test"}
        return {name: self._generate_examples(split, *files) for name, split in names.items()}

    def _generate_examples(self, split, images, annotations):
        for name, label in zip(images, label_names(images), strict=True):
            if f"/{split}/" in name:
                key = name.split("/")[-1].removesuffix("_leftImg8bit.png")
                yield (
                    key,
                    {
                        "image_id": key,
                        "image_left": io.BytesIO(images[name]),
                        "segmentation_label": io.BytesIO(annotations[label]),
                    },
                )


@pytest.fixture
def root(tmp_path):
    write_extracted(tmp_path / "root", *cityscapes_files())
    return tmp_path / "root"


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Cityscapes(data_dir=folder, config="semantic_segmentation").download_and_prepare(
        file_format="array_record"
    )
    return folder


def config(**changes):
    default = DataConfig(
        name="cityscapes",
        batch_size=2,
        eval_batch_size=2,
        image_size=(24, 40),
        eval_image_size=(32, 64),
    )
    return replace(default, **changes)


def expected_examples(split):
    images, annotations = cityscapes_files()
    mapping = {k: ORIGINAL.get(k, 255) for k in range(34)} | {255: 255}
    for name, label in zip(images, label_names(images), strict=True):
        if f"/{split}/" in name:
            ids = np.asarray(Image.open(io.BytesIO(annotations[label])))
            image = np.asarray(Image.open(io.BytesIO(images[name])))
            yield image, np.vectorize(mapping.get)(ids)


def test_the_label_table():
    assert [label.id for label in LABELS] == list(range(34))
    assert {label.id: label.train_id for label in LABELS if label.train_id != 255} == ORIGINAL
    assert [label.train_id for label in CLASSES] == list(range(19))
    assert CLASS_NAMES[::6] == ("road", "traffic light", "rider", "bicycle")
    assert list(LABEL_IDS) == list(ORIGINAL)
    assert PALETTE.shape == (19, 3)
    assert len(np.unique(PALETTE, axis=0)) == 19
    assert tuple(PALETTE[0]) == (128, 64, 128)


def test_ids_and_classes_are_inverse():
    np.testing.assert_array_equal(CLASS_OF_ID[LABEL_IDS], np.arange(19))


@pytest.mark.parametrize("source", ["extracted", "tfds"])
def test_evaluation_is_the_validation_split(source, root, tfds_dir):
    data = config(root=str(root)) if source == "extracted" else config(dir=str(tfds_dir))
    info = dataset_info(data)
    assert (info.train_examples, info.eval_examples) == (4, 2)
    assert len(find_dataset(data).class_names) == 19
    (batch,) = eval_batches(data)
    found = sorted(zip(batch["image"], batch["label"], strict=True), key=lambda x: x[0].tobytes())
    expected = sorted(expected_examples("val"), key=lambda x: x[0].tobytes())
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(left[0], right[0])
        np.testing.assert_array_equal(left[1], right[1])


@pytest.mark.parametrize("source", ["extracted", "tfds"])
def test_training_crops(source, root, tfds_dir):
    data = config(root=str(root)) if source == "extracted" else config(dir=str(tfds_dir))
    for batch in islice(train_iterator(data, seed=0), 4):
        assert batch["image"].shape == (2, 24, 40, 3)
        assert batch["label"].shape == (2, 24, 40)
        assert set(np.unique(batch["label"])) <= {*range(19), 255}


def test_the_order_of_the_list_is_kept(root):
    (batch,) = eval_batches(config(root=str(root)))
    for found, (image, _) in zip(batch["image"], expected_examples("val"), strict=True):
        np.testing.assert_array_equal(found, image)


def test_the_default_evaluation_size_is_that_of_the_official_images(root):
    dataset = find_dataset(config(root=str(root), eval_image_size=None))
    assert dataset.eval_image_size() == (1024, 2048)


def test_without_list(root):
    (root / "list/cityscapes/val.lst").unlink()
    with pytest.raises(
        ValueError, match=rf"val\.lst does not exist; put .*\.zip, .*--archives=DIR --root={root}`"
    ):
        dataset_info(config(root=str(root)))


@pytest.mark.parametrize(
    "line", ["a.png", "a.png b_labelIds.png c", "a.png b_gtFine_labelTrainIds.png", ""]
)
def test_a_list_with_a_bad_line(root, line):
    path = root / "list/cityscapes/val.lst"
    path.write_text(path.read_text().splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*val\.lst is"):
        dataset_info(config(root=str(root)))


def test_a_list_with_a_byte_order_mark(root):
    path = root / "list/cityscapes/val.lst"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert dataset_info(config(root=str(root))).eval_examples == 2


def test_a_list_in_another_encoding(root):
    path = root / "list/cityscapes/val.lst"
    path.write_bytes(path.read_bytes() + "zürich.png".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 3 of .*val\.lst is not in UTF-8; save"):
        dataset_info(config(root=str(root)))


NAME = "frankfurt_000000_000019_gtFine_labelIds.png"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, rf"no label file: .*{NAME} does not exist"),
        (encode(np.full((32, 64), 34, np.uint8)), rf"{NAME} has the label id 34, .*0 to 33"),
        (encode(np.zeros((32, 60), np.uint8)), rf"{NAME} is of size \(32, 60\)"),
        (encode(np.zeros((32, 64), np.uint8))[:40], rf"{NAME} is not an image, or breaks off"),
    ],
)
def test_bad_label_files(root, content, message):
    path = root / "cityscapes/gtFine/val/frankfurt" / NAME
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(eval_batches(config(root=str(root), max_bad_records=0)))


def test_a_missing_image(root):
    next((root / "cityscapes/leftImg8bit/val/frankfurt").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"_leftImg8bit\.png does not exist; put it there"):
        list(eval_batches(config(root=str(root))))


def test_tfds_has_not_prepared_it(tmp_path):
    message = (
        rf"{tmp_path}.* does not exist; put leftImg8bit_trainvaltest\.zip and .*, from https://.*"
        "into a folder DIR, and run `.*prepare --name=cityscapes --source=DIR.*"
        r" set config\.data\.root to the folder that has list/ and cityscapes/ in"
    )
    with pytest.raises(ValueError, match=message):
        dataset_info(config(dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_tfds_prepared_it_in_another_format(tfds_dir, tmp_path):
    """As a machine with TensorFlow does by default."""
    folder = tmp_path / "cityscapes/semantic_segmentation/1.0.0"
    folder.mkdir(parents=True)
    for name in ("features.json", "dataset_info.json"):
        text = (tfds_dir / "cityscapes/semantic_segmentation/1.0.0" / name).read_text()
        (folder / name).write_text(text.replace("array_record", "tfrecord"))
    assert json.loads((folder / "dataset_info.json").read_text())["fileFormat"] == "tfrecord"
    with pytest.raises(ValueError, match=rf"{folder} is in a format.*as ArrayRecord"):
        dataset_info(config(dir=str(tmp_path)))
