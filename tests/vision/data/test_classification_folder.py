"""A folder of images in the layout of tfds.ImageFolder, and what may be wrong with it."""

import shutil
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from archives import MODES, jpeg, photograph
from folders import encode, grey_png, text_chunk

from mdeq_jax.images.decoding import decode
from mdeq_jax.vision.config import DataConfig, finalize
from mdeq_jax.vision.data import dataset_info, eval_batches, find_dataset, train_iterator
from mdeq_jax.vision.data.classification_transforms import centre
from mdeq_jax.vision.experiment import require_fit

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def root(tmp_path):
    """Images of all modes and of several sizes, 4 of a class to train on and 2 to evaluate."""
    modes = list(MODES.values())
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = photograph((label, number), (40 + 10 * number, 56))
                (folder / f"{number}.jpg").write_bytes(jpeg(image, **modes[(label + number) % 5]))
    return tmp_path


@pytest.fixture
def data(root):
    return DataConfig(
        name="folder", root=str(root), batch_size=4, eval_batch_size=4, image_size=(32, 32)
    )


def test_info(data):
    info = dataset_info(data)
    assert (info.train_examples, info.eval_examples) == (12, 6)
    assert info.image_shape == (32, 32, 3)
    dataset = find_dataset(data)
    assert (dataset.task, dataset.class_names) == ("classification", CLASSES)


def test_the_names_of_classes_need_the_training_split_alone(data, root):
    shutil.rmtree(root / "val")
    assert find_dataset(data).class_names == CLASSES


def test_evaluation_is_the_images_in_order(data, root):
    batches = list(eval_batches(data))
    images = np.concatenate([batch["image"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(mask, [True] * 6 + [False] * 2)
    np.testing.assert_array_equal(labels[mask], [0, 0, 1, 1, 2, 2])
    paths = sorted((root / "val").rglob("*.jpg"))
    expected = [centre(decode(path.read_bytes(), ""), (32, 32)) for path in paths]
    np.testing.assert_array_equal(images[mask], expected)


def test_evaluation_at_another_size(data):
    batch = next(eval_batches(replace(data, eval_image_size=(48, 48))))
    assert batch["image"].shape == (4, 48, 48, 3)


def test_training_without_augmentation_is_the_middle(data, root):
    batches = islice(train_iterator(replace(data, augment=False), seed=0), 3)
    found = {image.tobytes() for batch in batches for image in batch["image"]}
    paths = (root / "train").rglob("*.jpg")
    assert found == {centre(decode(p.read_bytes(), ""), (32, 32)).tobytes() for p in paths}


@pytest.mark.parametrize("colour_jitter", [0.0, 0.4])
def test_training(data, colour_jitter):
    data = replace(data, colour_jitter=colour_jitter)
    first, again = (list(islice(train_iterator(data, seed=3), 6)) for _ in range(2))
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])
    epochs = [
        {image.tobytes() for b in part for image in b["image"]}
        for part in np.split(np.array(first, dtype=object), 2)
    ]
    assert len(epochs[0]) == 12
    assert epochs[0].isdisjoint(epochs[1])
    plain = next(train_iterator(replace(data, colour_jitter=0.0), seed=3))
    assert (plain["image"] == first[0]["image"]).all() == (colour_jitter == 0)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_other_names_of_the_evaluation_split(data, root, name):
    (root / "val").rename(root / name)
    assert dataset_info(data).eval_examples == 6


def empty(folder):
    for path in folder.rglob("*.jpg"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"/train does not exist; config\.data\.root must hold ROOT/train/CLASS"),
        (lambda root: empty(root / "train"), r"train holds no image CLASS/\*\.jpg"),
        (lambda root: empty(root / "val"), r"val holds no image .*; put images there"),
        (lambda root: shutil.rmtree(root / "val"), r"has none of the folders val, validation, tes"),
        (lambda root: (root / "val/dog").mkdir(), r"val/dog is of a class that has no folder in"),
    ],
)
def test_folders_that_are_refused(data, root, damage, message):
    damage(root)
    with pytest.raises(ValueError, match=message):
        dataset_info(data)


def test_without_root(data):
    with pytest.raises(ValueError, match=r"data\.root is not set.*ROOT/train/CLASS"):
        find_dataset(replace(data, root=None))


@pytest.mark.parametrize("field", ["image_size", "eval_image_size"])
def test_sizes_that_are_no_squares(data, field):
    with pytest.raises(ValueError, match=rf"data\.{field} is \(32, 64\), but crops .* squares"):
        find_dataset(replace(data, **{field: (32, 64)}))


def test_the_number_of_classes_must_be_the_models(data):
    nested = {"data": vars(data), "model": {"num_classes": 4}}
    with pytest.raises(ValueError, match=r"num_classes is 4, but data set 'folder' has 3 classes"):
        require_fit(finalize(nested), find_dataset(data))


def test_bad_images_are_left_out_and_bounded(data, root, caplog):
    (root / "train/ant/0.jpg").write_text("not an image")
    path = root / "val/bee/1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    list(islice(train_iterator(data, seed=0), 3))
    assert "left out 1 of at most 10" in caplog.text
    assert str(root / "train/ant/0.jpg") in caplog.text
    masks = np.concatenate([batch["mask"] for batch in eval_batches(data)])
    np.testing.assert_array_equal(masks, [True, True, True, False, True, True, False, False])
    strict = replace(data, max_bad_records=0)
    with pytest.raises(ValueError, match=r"max_bad_records=0.*train/ant/0\.jpg is not an image"):
        list(islice(train_iterator(strict, seed=0), 3))
    with pytest.raises(ValueError, match=r"max_bad_records=0.*val/bee/1\.jpg is not an image, or"):
        list(eval_batches(strict))


def use_all(data):
    """The number of examples that evaluation yields, after an epoch of training."""
    list(islice(train_iterator(data, seed=0), 3))
    return sum(batch["mask"].sum() for batch in eval_batches(data))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0.png", encode(photograph(0, (40, 56)), **text_chunk())),
        ("0.webp", encode(photograph(0, (40, 56)), "webp")),
        ("0.JPEG", encode(photograph(0, (40, 56)), "bmp")),
    ],
)
def test_images_that_are_used(data, root, name, content):
    for split in ("train", "val"):
        (root / split / "ant/0.jpg").unlink()
        (root / split / "ant" / name).write_bytes(content)
    assert use_all(replace(data, max_bad_records=0)) == 6


@pytest.mark.parametrize(
    "content",
    [
        encode(photograph(0, (40, 56)))[:20],
        jpeg(photograph(0, (40, 56)))[:100],
        grey_png(60_000, 60_000, rows=1),
    ],
    ids=["header of a PNG", "header of a JPEG", "too large"],
)
@pytest.mark.parametrize("augment", [True, False])
def test_images_that_are_left_out(data, root, content, augment, caplog):
    for split in ("train", "val"):
        (root / split / "ant/0.jpg").write_bytes(content)
    assert use_all(replace(data, augment=augment)) == 5
    for split in ("train", "val"):
        assert f"left out 1 of at most 10: {root / split / 'ant/0.jpg'} is " in caplog.text


def test_a_file_that_cannot_be_opened(data, root, caplog):
    for split in ("train", "val"):
        (root / split / "ant/0.jpg").unlink()
        (root / split / "ant/0.jpg").symlink_to("nowhere")
    assert use_all(data) == 5
    assert f"{root / 'train/ant/0.jpg'} cannot be read ([Errno 2]" in caplog.text


def test_what_systems_add_is_not_read(data, root, caplog):
    for split in ("train", "val"):
        for name in (".thumbs", "__MACOSX", "ant/.thumbs"):
            (root / split / name).mkdir()
            (root / split / name / "x.png").write_text("not an image")
        (root / split / "ant/._0.jpg").write_text("not an image")
        (root / split / "ant/x.png").mkdir()
    assert use_all(replace(data, max_bad_records=0)) == 6
    assert find_dataset(data).class_names == CLASSES
    assert not caplog.text


def nested(folder):
    (folder / "deeper").mkdir()
    rename("deeper/0.jpg")(folder)


def rename(name):
    return lambda folder: next(folder.glob("*.jpg")).rename(folder / name)


@pytest.mark.parametrize(
    "change",
    [
        empty,
        nested,
        rename("0.jp2"),
        rename("._0.jpg"),
    ],
    ids=["empty", "nested", "another format", "hidden"],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_without_images_are_named(data, root, split, change, caplog):
    for name in ("ant", "cat"):
        for path in [*(root / split / name).iterdir()][1:]:
            path.unlink()
        change(root / split / name)
    assert find_dataset(data).class_names == CLASSES
    dataset_info(data)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"2 classes in {root / split} have no image CLASS/*.jpg, ")
    assert message.endswith(": ant, cat; put images into these folders, or remove them.")


def test_a_class_without_a_folder_in_the_evaluation_split_is_no_fault(data, root, caplog):
    shutil.rmtree(root / "val/cat")
    assert dataset_info(data).eval_examples == 4
    assert not caplog.text


def test_batches_with_bad_images_are_the_same_for_any_threads(data, root):
    (root / "train/ant/0.jpg").write_text("not an image")
    threads = train_iterator(replace(data, threads=3), seed=0)
    for batch in islice(train_iterator(data, seed=0), 7):
        np.testing.assert_array_equal(next(threads)["image"], batch["image"])


def test_a_folder_that_vanishes(data, root):
    batches = train_iterator(data, seed=0)
    next(batches)
    shutil.rmtree(root)
    with pytest.raises(OSError, match=str(root)):
        list(islice(batches, 20))
