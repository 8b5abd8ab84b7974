"""Files of optical flow and disparity, against those that upstream's code reads and writes."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from flow_layouts import random_flow, random_valid

from mdeq_jax.flow.data.formats import (
    read_disparity,
    read_flow,
    write_flo,
    write_kitti,
    write_pfm,
)
from mdeq_jax.training.reader import BadRecordError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "flow"
EXPECTED = np.load(FIXTURES / "formats.npz")


def assert_holds(found, flow, valid):
    assert [array.dtype for array in found] == [np.float32, bool]
    np.testing.assert_array_equal(found.valid, valid)
    np.testing.assert_array_equal(found.flow, np.where(found.valid[..., None], flow, 0))


@pytest.mark.parametrize(
    ("name", "flow", "valid"),
    [
        ("small.flo", "flo", "flo_valid"),
        ("small.pfm", "pfm", None),
        ("big_endian.pfm", "pfm_big_endian", None),
        ("kitti_flow.png", "kitti_flow", "kitti_valid"),
    ],
)
def test_flow_as_upstream_reads_it(name, flow, valid):
    expected = EXPECTED[valid] if valid else np.ones((5, 7))
    assert_holds(read_flow(FIXTURES / name), EXPECTED[flow], expected)


def test_disparity_as_upstream_reads_it():
    expected = EXPECTED["kitti_disp_flow"], EXPECTED["kitti_disp_valid"]
    assert_holds(read_disparity(FIXTURES / "kitti_disp.png"), *expected)
    found = read_disparity(FIXTURES / "grey.pfm")
    np.testing.assert_array_equal(found.flow[..., 0], -EXPECTED["pfm_grey"])
    assert not found.flow[..., 1].any()
    assert found.valid.all()


@pytest.mark.parametrize(
    ("name", "write"),
    [("x.flo", write_flo), ("x.pfm", write_pfm), ("x.png", write_kitti), ("x.PNG", write_kitti)],
)
def test_round_trips(tmp_path, name, write):
    flow = random_flow(0, (5, 8))
    write(tmp_path / name, flow)
    assert_holds(read_flow(tmp_path / name), flow, np.ones((5, 8)))


def test_what_is_written_is_what_upstream_wrote(tmp_path):
    write_flo(tmp_path / "x.flo", EXPECTED["flo"])
    assert (tmp_path / "x.flo").read_bytes() == (FIXTURES / "small.flo").read_bytes()
    write_kitti(tmp_path / "x.png", EXPECTED["kitti_flow"], EXPECTED["kitti_valid"] > 0)
    written, expected = (
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for path in (tmp_path / "x.png", FIXTURES / "kitti_flow.png")
    )
    np.testing.assert_array_equal(written, expected)


def test_pixels_of_flow_without_rounding(tmp_path):
    """u = 1 is red 2¹⁵ + 64, v = −2 is green 2¹⁵ − 128, valid is blue 1."""
    write_kitti(tmp_path / "x.png", np.array([[[1.0, -2.0]]]))
    blue_green_red = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
    assert blue_green_red.tolist() == [[[1, 2**15 - 128, 2**15 + 64]]]


def test_kitti_rounds_and_clips(tmp_path):
    flow = np.array([[[1000.0, -1000.0], [0.01, -0.01], [3.004, np.nan]]])
    write_kitti(tmp_path / "x.png", flow, np.array([[True, True, False]]))
    expected = [[[512 - 1 / 64, -512], [1 / 64, -1 / 64], [0, 0]]]
    assert_holds(read_flow(tmp_path / "x.png"), np.array(expected), [[True, True, False]])


def test_disparity_round_trip(tmp_path):
    disparity = np.array([[1.5, np.inf, 0.25]], np.float32)
    write_pfm(tmp_path / "x.pfm", disparity)
    expected = np.array([[[-1.5, 0], [0, 0], [-0.25, 0]]])
    assert_holds(read_disparity(tmp_path / "x.pfm"), expected, np.isfinite(disparity))


@pytest.mark.parametrize("unknown", [np.nan, np.inf, 1000.0, -1e10])
@pytest.mark.parametrize(("name", "write"), [("x.flo", write_flo), ("x.pfm", write_pfm)])
def test_flow_that_is_unknown(tmp_path, name, write, unknown):
    flow = random_flow(1, (4, 6))
    flow[1, 2, 1] = unknown
    write(tmp_path / name, flow)
    known = np.ones((4, 6), bool)
    known[1, 2] = False
    assert_holds(read_flow(tmp_path / name), flow, known)


@pytest.mark.parametrize("name", ["small.flo", "small.pfm", "big_endian.pfm", "kitti_flow.png"])
@pytest.mark.parametrize("keep", [0, 3, 9, 50, -1])
def test_truncated(tmp_path, name, keep):
    path = tmp_path / name
    path.write_bytes((FIXTURES / name).read_bytes()[:keep])
    with pytest.raises(BadRecordError, match=r"begins with|breaks off") as raised:
        read_flow(path)
    assert raised.value.name == str(path)


@pytest.mark.parametrize("name", ["small.flo", "small.pfm"])
def test_more_bytes_than_pixels(tmp_path, name):
    path = tmp_path / name
    path.write_bytes((FIXTURES / name).read_bytes() + b"\0")
    with pytest.raises(BadRecordError, match=r"has \d+1 bytes .* says 7×5 pixels"):
        read_flow(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.flo", b"HEIP" + b"\1\0\0\0" * 4, r"begins with b'HEIP'; .* b'PIEH'"),
        ("x.flo", b"PIEH" + b"\xff" * 16, "says -1×-1 pixels"),
        ("x.flo", b"PIEH" + b"\0" * 8, "says 0×0 pixels"),
        ("x.pfm", b"P6\n2 2\n255\n" + b"\0" * 12, "begins with b'P6"),
        ("x.pfm", b"PF\n2 -2\n-1.0\n" + b"\0" * 48, "begins with b'PF"),
        ("x.pfm", b"PF\n0 2\n-1.0\n", "says 0×2 pixels"),
        ("x.png", b"no image", "is not an image"),
    ],
)
def test_damaged_headers(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadRecordError, match=message) as raised:
        read_flow(path)
    assert raised.value.name == str(path)


@pytest.mark.parametrize("ending", [b"-1\n", b"-0.25 \n", b"-1.0e0\r\n"])
def test_pfm_headers_of_other_programs(tmp_path, ending):
    numbers = np.arange(6, dtype="<f4").tobytes()
    (tmp_path / "x.pfm").write_bytes(b"PF 1 2\n" + ending + numbers)
    assert read_flow(tmp_path / "x.pfm").flow.tolist() == [[[3, 4]], [[0, 1]]]


def test_another_kind_of_file(tmp_path):
    eight_bit = tmp_path / "x.png"
    cv2.imwrite(str(eight_bit), np.ones((4, 6, 3), np.uint8))
    with pytest.raises(BadRecordError, match="has 8 bits per channel; flow and disparity have 16"):
        read_flow(eight_bit)
    for name in ("kitti_disp.png", "grey.pfm"):
        with pytest.raises(BadRecordError, match="has 1 channel; expected flow, 3 channels"):
            read_flow(FIXTURES / name)
    for name in ("kitti_flow.png", "small.pfm"):
        with pytest.raises(BadRecordError, match="has 3 channels; expected disparity, 1 channel"):
            read_disparity(FIXTURES / name)


@pytest.mark.parametrize("name", ["x.flo", "x.pfm", "x.png"])
def test_missing_files(tmp_path, name):
    with pytest.raises(BadRecordError, match="No such file"):
        read_flow(tmp_path / name)


def test_other_suffixes(tmp_path):
    shutil.copy(FIXTURES / "small.flo", tmp_path / "small.flow")
    with pytest.raises(ValueError, match=r"'.flow'; it must be .flo, .pfm or .png"):
        read_flow(tmp_path / "small.flow")
    with pytest.raises(ValueError, match=r"'.flo'; it must be .pfm or .png"):
        read_disparity(FIXTURES / "small.flo")
    with pytest.raises(ValueError, match=r"'.flo'; it must be .png"):
        write_kitti(tmp_path / "x.flo", random_flow(0))


def test_what_cannot_be_written(tmp_path):
    for name, write in (("x.flo", write_flo), ("x.pfm", write_pfm), ("x.png", write_kitti)):
        with pytest.raises(ValueError, match=r"shape \(2, 5, 8\); it must be \(H, W, 2\)"):
            write(tmp_path / name, np.zeros((2, 5, 8)))
    with pytest.raises(ValueError, match="NaN at a valid pixel"):
        write_kitti(tmp_path / "x.png", np.full((2, 2, 2), np.nan))
    with pytest.raises(OSError, match="check that its folder exists"):
        write_kitti(tmp_path / "no/x.png", random_flow(0))


def test_valid_pixels_alone_are_read(tmp_path):
    flow, valid = random_flow(3), random_valid(3)
    write_kitti(tmp_path / "x.png", flow, valid)
    assert_holds(read_flow(tmp_path / "x.png"), flow, valid)
    assert 0 < valid.mean() < 0.5
