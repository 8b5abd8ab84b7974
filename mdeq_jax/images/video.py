"""Frames of video files."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mdeq_jax.images.decoding import Pixels


def read_video(path: Path) -> Iterator[Pixels]:
    """Return the frames of a video file one after another, RGB, upright.

    The file is read as the frames are asked for. A file that breaks off ends with its last whole
    frame.

    Args:
      path: a file in a format that OpenCV reads, such as .mp4, .avi, .mkv, .mov and .gif.

    Raises:
      ValueError: the file does not exist, is no video, or holds no frame.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is no file; give the path of a video.")
    # Other backends take a file name with a number in it for the first of a series of images.
    frames = _frames(cv2.VideoCapture(str(path), cv2.CAP_FFMPEG))
    first = next(frames, None)
    if first is None:
        raise ValueError(
            f"{path} is not a video that OpenCV reads, or holds no frame; convert it by `ffmpeg -i "
            f"{path} NEW.mp4`, or put its frames into a folder as images."
        )
    return itertools.chain([first], frames)


def _frames(video: cv2.VideoCapture) -> Iterator[Pixels]:
    try:
        while True:
            found, frame = video.read()
            if not found:
                return
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    finally:
        video.release()
