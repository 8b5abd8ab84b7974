"""A user's own folder: what is read, batches of one shape, and errors that name the file."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from folders import encode, grey_png, text_chunk, write_seg_folder
from PIL import Image

from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import dataset_info, eval_batches, find_dataset, train_iterator
from mdeq_jax.vision.data.segmentation_transforms import MEAN_COLOUR


@pytest.fixture
def root(tmp_path):
    return tmp_path / "streets"


@pytest.fixture
def pairs(root):
    return write_seg_folder(root)


@pytest.fixture
def data(root, pairs):
    return DataConfig(
        name="seg_folder",
        root=str(root),
        batch_size=3,
        eval_batch_size=2,
        image_size=(24, 40),
        max_bad_records=0,
    )


def consume(data):
    """All that a run reads of a data set."""
    dataset_info(data)
    batch = next(train_iterator(replace(data, augment=False, batch_size=8), seed=0))
    assert batch["image"].shape == (8, 24, 40, 3)
    return list(eval_batches(data))


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def test_info(data):
    info = dataset_info(data)
    assert (info.train_examples, info.eval_examples) == (8, 3)
    assert info.image_shape == (24, 40, 3)
    dataset = find_dataset(data)
    assert dataset.class_names == ("class 0", "class 1", "class 2")
    assert dataset.eval_image_size() == (64, 64)  # 48 and 48, to multiples of 32
    assert dataset.task == "segmentation"


def test_evaluation_is_the_images_in_order_padded(data, pairs):
    batches = consume(data)
    assert {batch["image"].shape for batch in batches} == {(2, 64, 64, 3)}
    assert {batch["label"].shape for batch in batches} == {(2, 64, 64)}
    merged = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    np.testing.assert_array_equal(merged["mask"], [True, True, True, False])
    for (image, ids), found, label in zip(
        pairs["val"].values(), merged["image"], merged["label"], strict=False
    ):
        height, width = ids.shape
        np.testing.assert_array_equal(found[:height, :width], image)
        np.testing.assert_array_equal(label[:height, :width], ids)
        assert (found[height:] == MEAN_COLOUR).all()
        assert (found[:, width:] == MEAN_COLOUR).all()
        assert (label[height:] == 255).all()
        assert (label[:, width:] == 255).all()


def test_evaluation_size_of_the_config(data):
    data = replace(data, eval_image_size=(48, 96))
    assert {batch["image"].shape for batch in eval_batches(data)} == {(2, 48, 96, 3)}


def test_evaluation_images_are_opened_where_their_size_is_needed(root, data):
    for path in (root / "val/images").iterdir():
        path.write_text("not an image")
    assert dataset_info(data).eval_examples == 3
    next(train_iterator(data, seed=0))
    assert find_dataset(replace(data, eval_image_size=(64, 64))).eval_image_size() == (64, 64)
    with pytest.raises(ValueError, match=r"none of 3 files is an image .*street_0\.png"):
        eval_batches(data)


@pytest.mark.parametrize("length", [0, 20])
def test_an_evaluation_image_that_breaks_off_is_left_out_of_the_size(root, data, length, caplog):
    path = root / "val/images/street_1.png"
    path.write_bytes(path.read_bytes()[:length])
    batches = list(eval_batches(replace(data, max_bad_records=1)))
    assert {batch["image"].shape[1:3] for batch in batches} == {(32, 64)}
    assert sum(batch["mask"].sum() for batch in batches) == 2
    assert f"left out 1 of at most 1: {path}" in caplog.text


def test_the_classes_are_known_without_the_images(root, data):
    for split in ("train", "val"):
        (root / split).rename(root / f"no_{split}")
    assert find_dataset(data).class_names == ("class 0", "class 1", "class 2")


def test_training_without_augmentation_is_the_middle(data, pairs):
    batch = next(train_iterator(replace(data, augment=False, batch_size=8), seed=0))
    expected = []
    for image, ids in pairs["train"].values():
        top, left = (
            max(0, side - crop) // 2 for side, crop in zip(ids.shape, (24, 40), strict=True)
        )
        label = np.full((24, 40), 255)
        crop = ids[top : top + 24, left : left + 40]
        label[: crop.shape[0], : crop.shape[1]] = crop
        expected.append(label.astype(np.int32).tobytes())
        assert image.shape[:2] == ids.shape
    assert sorted(label.tobytes() for label in batch["label"]) == sorted(expected)


def test_threads_and_processes_yield_the_same_batches(data):
    data = replace(data, batch_size=2)
    single = list(islice(train_iterator(data, seed=5), 9))
    threads = train_iterator(replace(data, threads=4), seed=5)
    shares = [
        train_iterator(data, seed=5, process_index=index, process_count=2) for index in range(2)
    ]
    for reference in single:
        assert_same(next(threads), reference)
        parts = [next(share) for share in shares]
        assert_same({k: np.concatenate([part[k] for part in parts]) for k in parts[0]}, reference)


def test_resuming_continues_bit_identically(data):
    data = replace(data, threads=3)
    iterator = train_iterator(data, seed=1)
    list(islice(iterator, 3))
    state = json.loads(json.dumps(iterator.get_state()))
    fresh = train_iterator(data, seed=1)
    fresh.set_state(state)
    for reference in islice(iterator, 5):
        assert_same(next(fresh), reference)


def test_seeds_and_epochs_differ(data):
    data = replace(data, batch_size=8)
    first, second = islice(train_iterator(data, seed=0), 2)
    other = next(train_iterator(data, seed=1))
    sets = [{image.tobytes() for image in batch["image"]} for batch in (first, second, other)]
    assert len(sets[0] | sets[1] | sets[2]) > 20


def test_formats_and_palettes(root, data, pairs):
    """A JPEG within its loss, and a label PNG with a palette, read as its indices."""
    image, ids = pairs["val"]["street_0"]
    smooth = np.full_like(image, 130)
    (root / "val/images/street_0.png").unlink()
    (root / "val/images/street_0.JPG").write_bytes(encode(smooth, "jpeg"))
    palette = Image.fromarray(ids).convert("P")
    palette.putdata(ids.ravel())
    palette.putpalette([200, 10, 30] * 256)
    palette.save(root / "val/labels/street_0.png")
    (root / "val/images/notes.txt").write_text("not an image")
    (root / "val/images/._street_0.png").write_bytes(b"of another system")
    batch = next(iter(eval_batches(data)))
    height, width = ids.shape
    np.testing.assert_array_equal(batch["label"][0, :height, :width], ids)
    np.testing.assert_allclose(batch["image"][0, :height, :width], smooth, atol=2)


def test_colours_are_red_green_blue(root, data, pairs):
    _, ids = pairs["val"]["street_0"]
    red = np.zeros((*ids.shape, 3), np.uint8)
    red[..., 0] = 255
    (root / "val/images/street_0.png").write_bytes(encode(red))
    batch = next(iter(eval_batches(data)))
    np.testing.assert_array_equal(batch["image"][0, 0, 0], [255, 0, 0])


def test_without_root(data):
    with pytest.raises(ValueError, match=r"data\.root is not set.*ROOT/classes\.txt"):
        dataset_info(replace(data, root=None))


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write(pixels):
    return lambda path: path.write_bytes(encode(pixels))


def at(y, x, value, size=(32, 48)):
    ids = np.zeros(size, np.uint8)
    ids[y, x] = value
    return ids


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("classes.txt", remove, "classes.txt does not exist"),
        ("classes.txt", lambda path: path.write_text("a\n\nb\n"), "classes.txt has 3 lines, 1 of"),
        ("classes.txt", lambda path: path.write_text(""), "classes.txt has 1 lines, 1 of"),
        ("classes.txt", lambda path: path.write_text("a\nb\na\n"), "has the class 'a' more than"),
        ("{}/labels/street_0.png", remove, "street_0.png has no label file: .*; put it"),
        ("{}/labels/street_0.png", cut, "labels/street_0.png is not an image.*save it"),
        ("{}/images/street_0.png", cut, "images/street_0.png is not an image, or breaks off"),
        ("{}/images/street_0.png", lambda path: path.write_bytes(b""), "street_0.png is not an im"),
        (
            "{}/labels/street_0.png",
            write(at(31, 47, 3)),
            "labels/street_0.png has the label id 3, .*0 to 2, and 255",
        ),
        ("{}/labels/street_0.png", write(at(0, 0, 254)), "street_0.png has the label id 254"),
        (
            "{}/labels/street_0.png",
            write(at(0, 0, 0, size=(32, 44))),
            r"labels/street_0.png is of size \(32, 44\), .*images/street_0.png .*\(32, 48\)",
        ),
        (
            "{}/labels/street_0.png",
            write(np.zeros((32, 48, 3), np.uint8)),
            "labels/street_0.png has pixels of mode 'RGB'",
        ),
        ("{}/labels/street_0.png", write(np.zeros((32, 48), "uint16")), "street_0.png .*'I;16'"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_damage(root, data, name, damage, message, split):
    damage(root / name.format(split))
    with pytest.raises(ValueError, match=message):
        consume(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("é\nb\nc\n".encode("latin-1"), r"line 1 of .*classes\.txt is not in UTF-8; save .*iconv"),
        ("a\nb\né\n".encode("latin-1"), r"line 3 of .*classes\.txt is not in UTF-8"),
        ("a\nb\né\n".encode("utf-16"), r"line 1 of .*classes\.txt is not in UTF-8"),
    ],
    ids=["latin-1", "latin-1 in line 3", "utf-16"],
)
def test_names_of_classes_in_other_encodings(root, data, content, message):
    (root / "classes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find_dataset(data)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_names_of_classes_with_and_without_a_byte_order_mark(root, data, encoding):
    (root / "classes.txt").write_bytes("straße\r\ncar\r\nsky\r\n".encode(encoding))
    assert find_dataset(data).class_names == ("straße", "car", "sky")


def use_all(data):
    """The number of examples that evaluation yields, after an epoch of training."""
    next(train_iterator(data, seed=0))
    return sum(batch["mask"].sum() for batch in eval_batches(data))


def test_large_annotations_are_no_fault(root, data, pairs):
    for split in ("train", "val"):
        image, ids = pairs[split]["street_0"]
        (root / split / "images/street_0.png").write_bytes(encode(image, **text_chunk()))
        (root / split / "labels/street_0.png").write_bytes(encode(ids, **text_chunk()))
    assert len(consume(data)) == 2
    assert find_dataset(data).eval_image_size() == (64, 64)


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize(
    "content",
    [b"", encode(np.zeros((32, 48), np.uint8))[:20], grey_png(60_000, 60_000, rows=1)],
    ids=["empty", "header", "too large"],
)
def test_files_that_are_left_out(root, data, kind, content, caplog):
    data = replace(data, batch_size=8, max_bad_records=1)
    for split in ("train", "val"):
        (root / split / kind / "street_0.png").write_bytes(content)
    assert use_all(data) == 2
    for split in ("train", "val"):
        path = root / split / kind / "street_0.png"
        assert f"left out 1 of at most 1: {path} is " in caplog.text


def test_what_systems_add_is_not_read(root, data):
    for split in ("train", "val"):
        for name in (".thumbs", "__MACOSX", "x.png"):
            (root / split / "images" / name).mkdir()
            (root / split / "images" / name / "y.png").write_text("not an image")
        (root / split / "images/._street_0.png").write_text("not an image")
    info = dataset_info(data)
    assert (info.train_examples, info.eval_examples) == (8, 3)


def mask(*ids):
    """A label file of which the left is of the first id, and so on."""
    return encode(np.repeat(np.array(ids, np.uint8), 48 // len(ids))[None].repeat(32, axis=0))


@pytest.mark.parametrize("ids", [(0, 255), (0, 0, 0, 255), (255,)])
def test_masks_in_black_and_white_are_named(root, data, ids, caplog):
    for split in ("train", "val"):
        (root / split / "labels/street_0.png").write_bytes(mask(*ids))
        (root / split / "labels/street_2.png").write_bytes(mask(*ids))
    assert use_all(replace(data, batch_size=8)) == 3
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    for split in ("train", "val"):
        for name in ("street_0", "street_2"):
            start = (
                f"{root / split / 'labels' / name}.png holds 0 and 255 alone, and 255 is ignored"
            )
            assert any(message.startswith(start) for message in messages)
    assert "cv2.imwrite(path" in messages[0]


@pytest.mark.parametrize("ids", [(0,), (0, 1, 255), (1, 255), (2, 255)])
def test_other_labels_are_no_such_masks(root, data, ids, caplog):
    for split in ("train", "val"):
        (root / split / "labels/street_0.png").write_bytes(mask(*ids))
    use_all(replace(data, batch_size=8))
    assert not caplog.text


def test_masks_of_a_single_class_are_no_fault(tmp_path, data, caplog):
    write_seg_folder(tmp_path / "one", num_classes=1)
    use_all(replace(data, root=str(tmp_path / "one"), batch_size=8))
    assert not caplog.text


def test_masks_are_named_once_and_within_bounds(tmp_path, data, caplog):
    write_seg_folder(tmp_path / "many", train=14, num_classes=1)
    (tmp_path / "many/classes.txt").write_text("background\nroad\n")
    data = replace(data, root=str(tmp_path / "many"), batch_size=7)
    list(islice(train_iterator(data, seed=0), 4))
    assert len(caplog.records) == 10
    assert "(warning 10 of at most 10)" in caplog.records[-1].getMessage()


def test_a_jpeg_that_breaks_off(root, data, pairs):
    image, _ = pairs["train"]["street_0"]
    (root / "train/images/street_0.png").unlink()
    path = root / "train/images/street_0.jpg"
    path.write_bytes(encode(image, "jpeg"))
    consume(data)
    path.write_bytes(path.read_bytes()[:-100])  # late enough for OpenCV to fill up the rest
    with pytest.raises(ValueError, match=r"street_0\.jpg is not an image, or breaks off"):
        consume(data)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_folder_that_is_missing(root, data, split, kind):
    (root / split / kind).rename(root / "elsewhere")
    with pytest.raises(ValueError, match=rf"{split}/{kind} does not exist"):
        dataset_info(data)


def test_a_folder_without_images(root, data):
    for path in (root / "train/images").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"train/images holds no image .*put images there"):
        dataset_info(data)


def test_two_images_of_one_label(root, data, pairs):
    path = root / "val/images/street_1.jpg"
    path.write_bytes(encode(pairs["val"]["street_1"][0], "jpeg"))
    with pytest.raises(ValueError, match=r"street_1\.png and .*street_1\.jpg would have the same"):
        dataset_info(data)


def test_an_evaluation_image_that_is_too_large(data):
    with pytest.raises(ValueError, match=r"street_1.png is of size \(48, 32\), larger than .*\(32"):
        list(eval_batches(replace(data, eval_image_size=(32, 64))))
