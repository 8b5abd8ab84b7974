"""Frames of video files, against the frames that were written."""

import cv2
import numpy as np
import pytest

from mdeq_jax.images.video import read_video

# RGB colours, one a frame.
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120)]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "film_01.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for red, green, blue in COLOURS:
        writer.write(np.full((24, 32, 3), (blue, green, red), np.uint8))
    writer.release()
    return path


def test_frames_come_in_order_as_rgb(video):
    frames = list(read_video(video))
    assert len(frames) == len(COLOURS)
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.shape == (24, 32, 3)
        assert frame.dtype == np.uint8
        np.testing.assert_allclose(frame, np.broadcast_to(colour, frame.shape), atol=6)


def test_a_truncated_file_ends_early(video):
    encoded = video.read_bytes()
    video.write_bytes(encoded[: encoded.rindex(b"00dc", 0, encoded.rindex(b"idx1")) + 4])
    assert 0 < len(list(read_video(video))) < len(COLOURS)


@pytest.mark.parametrize("content", [b"", b"no video\n" * 100], ids=["empty", "text"])
def test_a_file_that_is_no_video(tmp_path, content):
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    # It fails at once, not when the first frame is asked for.
    with pytest.raises(ValueError, match=r"film\.mp4 is not a video that OpenCV reads"):
        read_video(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"film\.mp4 does not exist"):
        read_video(tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="is no file"):
        read_video(tmp_path)
