"""The published data sets, as tiny ones in the same layouts."""

import shutil
from collections import Counter

import cv2
import flow_layouts
import numpy as np
import pytest

from mdeq_jax.flow.data.datasets import chairs, hd1k, kitti, read_example, sintel, things
from mdeq_jax.flow.data.formats import write_flo, write_kitti
from mdeq_jax.flow.data.mixtures import (
    EVALUATIONS,
    MIXTURES,
    evaluation_records,
    training_example,
    training_records,
)
from mdeq_jax.training.reader import BadRecordError, Reader


@pytest.fixture
def root(tmp_path):
    flow_layouts.make_all(tmp_path)
    return tmp_path


def assert_example(record, first, second, flow, *, sparse=False):
    """Check that a record holds the arrays of these seeds."""
    example = read_example(record)
    valid = np.ones(flow_layouts.SIZE, bool)
    valid = flow_layouts.random_valid(flow) if sparse else valid
    np.testing.assert_array_equal(example["first"], flow_layouts.random_image(first))
    np.testing.assert_array_equal(example["second"], flow_layouts.random_image(second))
    np.testing.assert_array_equal(example["valid"], valid)
    expected = np.where(valid[..., None], flow_layouts.random_flow(flow), 0)
    np.testing.assert_array_equal(example["flow"], expected)


def test_chairs(root):
    training, validation = (chairs(root, split) for split in ("training", "validation"))
    assert [record.name for record in training] == ["00001", "00002", "00004", "00005"]
    assert [record.name for record in validation] == ["00003"]
    assert_example(training[2], 8, 9, 4)
    assert_example(validation[0], 6, 7, 3)


def test_chairs_split_beside_the_data(root):
    (root / "chairs_split.txt").rename(root / "FlyingChairs_release" / "chairs_split.txt")
    assert len(chairs(root, "training")) == 4


def test_things(root):
    records = things(root, "cleanpass")
    assert len(records) == 2 * 2 * 2
    by_name = {record.name: record for record in records}
    assert_example(by_name["TRAIN/A/0000/into_future/0006"], 6, 7, 6)
    assert_example(by_name["TRAIN/B/0003/into_future/0007"], 7, 8, 7)
    assert_example(by_name["TRAIN/A/0000/into_past/0008"], 8, 7, 108)
    assert_example(by_name["TRAIN/B/0003/into_past/0007"], 7, 6, 107)
    final = things(root, "finalpass")
    assert [record.flow for record in final] == [record.flow for record in records]
    assert "frames_finalpass" in str(final[0].first)


def test_sintel(root):
    records = sintel(root, "training", "clean")
    names = ["clean/alley_1/frame0001", "clean/alley_1/frame0002", "clean/market_2/frame0001"]
    assert [record.name for record in records] == names
    assert_example(records[1], 2, 3, 2)
    test = sintel(root, "test", "final")
    assert [record.name for record in test] == [name.replace("clean", "final") for name in names]
    assert {record.flow for record in test} == {None}
    example = read_example(test[0])
    assert sorted(example) == ["first", "second"]
    np.testing.assert_array_equal(example["second"], flow_layouts.random_image(2))


def test_kitti(root):
    records = kitti(root, "training")
    assert [record.name for record in records] == ["000000_10", "000001_10"]
    assert_example(records[1], 11, 12, 1, sparse=True)
    assert [record.flow for record in kitti(root, "testing")] == [None, None]


def test_hd1k(root):
    records = hd1k(root)
    assert [record.name for record in records] == ["000000_0000", "000000_0001", "000001_0000"]
    assert_example(records[1], 1, 2, 1, sparse=True)
    assert_example(records[2], 10, 11, 10, sparse=True)


def test_grey_images(root):
    record = sintel(root, "training", "clean")[0]
    grey = flow_layouts.random_image(0)[..., 0]
    for path in (record.first, record.second):
        cv2.imwrite(str(path), grey)
    np.testing.assert_array_equal(read_example(record)["first"], np.dstack([grey] * 3))


@pytest.mark.parametrize(
    ("stage", "counts"),
    [
        ("chairs", {"FlyingChairs_release": 4}),
        ("things", {"frames_cleanpass": 8, "frames_finalpass": 8}),
        (
            "sintel",
            {"clean": 300, "final": 300, "KITTI": 400, "HD1k": 15, "frames_cleanpass": 8},
        ),
        ("kitti", {"KITTI": 2}),
    ],
)
def test_mixtures(root, stage, counts):
    records = training_records(root, stage)
    folders = [set(entry.record.first.relative_to(root).parts) for entry in records]
    assert Counter(name for parts in folders for name in parts & set(counts)) == counts
    assert len(records) == sum(counts.values())
    for entry in records:
        assert entry.recipe.sparse == (entry.record.flow.suffix == ".png")


@pytest.mark.parametrize("stage", MIXTURES)
def test_every_example_has_the_size_of_the_crop(root, stage):
    for seed, entry in enumerate(set(training_records(root, stage))):
        example = training_example(entry, np.random.default_rng(seed), (8, 32))
        shapes = {name: (array.shape, array.dtype) for name, array in example.items()}
        assert shapes == {
            "first": ((8, 32, 3), np.uint8),
            "second": ((8, 32, 3), np.uint8),
            "flow": ((8, 32, 2), np.float32),
            "valid": ((8, 32), bool),
        }


def test_evaluation_sets(root):
    sets = {name: evaluation_records(root, name) for name in EVALUATIONS}
    sizes = {name: len(records) for name, records in sets.items()}
    assert sizes == {"chairs": 1, "sintel_clean": 3, "sintel_final": 3, "kitti": 2}
    for render in ("clean", "final"):
        folders = {record.name.split("/")[0] for record in sets[f"sintel_{render}"]}
        assert folders == {render}


def test_unknown_names(root):
    with pytest.raises(ValueError, match=r"stage is 'shapes'; .* 'chairs', 'things', 'sintel'"):
        training_records(root, "shapes")
    with pytest.raises(ValueError, match=r"name is 'shapes'; .* 'chairs', 'sintel_clean'"):
        evaluation_records(root, "shapes")


@pytest.mark.parametrize(
    ("stage", "removed", "message"),
    [
        ("chairs", "FlyingChairs_release", r"has no Fly.*/data/\*_img1.ppm; .*//lmb.informatik"),
        ("chairs", "chairs_split.txt", "neither .*split.txt nor .* is there; copy .*deq-flow"),
        ("chairs", "FlyingChairs_release/data/00002_flow.flo", "00002_flow.flo is not there, alth"),
        ("chairs", "FlyingChairs_release/data/00002_img2.ppm", "00002_img2.ppm is not there, alth"),
        ("things", "FlyingThings3D", r"has no Fly.*/frames_cleanpass/TRAIN/\*/\*/;"),
        (
            "things",
            "FlyingThings3D/frames_finalpass",
            r"has no Fly.*/frames_finalpass/TRAIN/\*/\*/;",
        ),
        (
            "things",
            "FlyingThings3D/optical_flow/TRAIN/B/0003/into_past",
            r"has no .*B/0003/into_past/left/\*.pfm",
        ),
        (
            "things",
            "FlyingThings3D/optical_flow/TRAIN/A/0000/into_past/left/OpticalFlowIntoPast_0007_L.pfm",
            "into_past/left holds 2 flow files, but .* 3 images",
        ),
        (
            "sintel",
            "Sintel/training/final",
            r"has no Sintel/training/final/\*/; .*//sintel.is.tue.mpg.de",
        ),
        (
            "sintel",
            "Sintel/training/flow/alley_1/frame_0002.flo",
            r"frame_0002.flo is not there, although .*frame_0002.png is",
        ),
        ("sintel", "Sintel/training/flow", r"frame_0001.flo is not there, although"),
        ("sintel", "HD1k/hd1k_flow_gt", r"flow_occ/000000_0000.png is not there, although"),
        ("sintel", "HD1k", r"image_2/\*_\*.png; .* the folder HD1k, from http://hci-benchmark"),
        ("kitti", "KITTI/training/flow_occ/000001_10.png", "000001_10.png is not there, although"),
        ("kitti", "KITTI/training/image_2/000001_11.png", "000001_11.png is not there, although"),
        ("kitti", "KITTI", r"has no KITTI/training/image_2/\*_10.png; .*//www.cvlibs.net"),
    ],
)
def test_what_is_missing(root, stage, removed, message):
    path = root / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=message) as raised:
        training_records(root, stage)
    assert str(root) in str(raised.value)


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"config.data.root is .*/nowhere', which is not a folder"):
        training_records(tmp_path / "nowhere", "kitti")


@pytest.mark.parametrize("text", ["1\n1\n2\n", "1\n1\n2\n1\n3\n"])
def test_another_split_of_chairs(root, text):
    (root / "chairs_split.txt").write_text(text)
    with pytest.raises(ValueError, match=r"must have one entry for each, 1 \(training\) or 2"):
        chairs(root, "training")


def test_files_of_systems_are_left_out(root):
    shutil.copy(
        root / "KITTI/training/image_2/000000_10.png",
        root / "KITTI/training/image_2/._000000_10.png",
    )
    (root / "Sintel/training/clean/readme.txt").write_text("")
    assert len(kitti(root, "training")) == 2
    assert len(sintel(root, "training", "clean")) == 3


@pytest.mark.parametrize("part", ["second", "flow"])
def test_two_sizes_in_one_record(root, part):
    record = sintel(root, "training", "clean")[0]
    path, size = getattr(record, part), (16, 25)
    write = flow_layouts.write_image if part == "second" else flow_layouts.write_flow
    write(path, 0, size)
    with pytest.raises(BadRecordError, match=r"\(16, 25\), but .* is of size \(16, 24\)") as raised:
        read_example(record)
    assert raised.value.name == str(path)


def write_eight_bits(path):
    cv2.imwrite(str(path), np.ones((*flow_layouts.SIZE, 3), np.uint8))


def write_without_valid_pixels(path):
    write_kitti(path, flow_layouts.random_flow(0), np.zeros(flow_layouts.SIZE, bool))


@pytest.mark.parametrize(
    ("write", "message"),
    [(write_eight_bits, "has 8 bits"), (write_without_valid_pixels, "has no valid pixel")],
)
def test_a_bad_record_of_kitti(root, write, message):
    entries = training_records(root, "kitti")
    write(entries[0].record.flow)
    with pytest.raises(BadRecordError, match=message) as raised:
        read_example(entries[0].record)
    assert raised.value.name == str(entries[0].record.flow)

    def transform(entry):
        return training_example(entry, np.random.default_rng(0), (8, 16))

    assert Reader(entries, max_bad_records=1).read(0, transform).index == 1
    with pytest.raises(ValueError, match=message):
        Reader(entries, max_bad_records=0).read(0, transform)


def test_dense_flow_that_is_nowhere_known(root):
    record = sintel(root, "training", "clean")[0]
    write_flo(record.flow, np.full((*flow_layouts.SIZE, 2), 1e9))
    with pytest.raises(BadRecordError, match="has no valid pixel"):
        read_example(record)


def test_truncated_images(root):
    for record in (chairs(root, "training")[0], kitti(root, "training")[0]):
        record.second.write_bytes(record.second.read_bytes()[:-40])
        with pytest.raises(BadRecordError, match="breaks off"):
            read_example(record)
