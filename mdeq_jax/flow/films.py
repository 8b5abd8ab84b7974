"""Pairs of frames in the order of time: of films of your own, and of the benchmarks' test sets."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from absl import logging

from mdeq_jax.flow.data.datasets import Record, kitti, read_example, sintel
from mdeq_jax.images.decoding import Pixels
from mdeq_jax.images.files import IMAGE_SUFFIXES, find_images, read_image
from mdeq_jax.images.video import read_video
from mdeq_jax.training.reader import BadRecordError

Benchmark = Literal["sintel", "kitti"]


class Pair(NamedTuple):
    """Two frames that follow each other.

    Attributes:
      name: name of the first frame, or of the pair in a submission.
      first: the first frame.
      second: the second frame, of the same size.
      new_scene: whether the first frame is not the second one of the pair before.
    """

    name: str
    first: Pixels
    second: Pixels
    new_scene: bool


class Film:
    """The frames in folders, or of one video, read one after another.

    The frames of a folder are in the order of their names, where numbers count by their value:
    frame2.png comes before frame10.png. Every folder is a film of its own.

    Attributes:
      frames: number of frames so far, with the unreadable ones.
      unreadable: a message for each frame that could not be read so far.
    """

    def __init__(self, inputs: Sequence[str], output: Path):
        """Find the frames.

        Args:
          inputs: folders, which are searched with all visible folders below them, or one video.
          output: folder that the flow is written to.

        Raises:
          ValueError: an input does not exist, holds no image or no frame, or is a single image, or
            there is another input beside a video; or a folder contains the output.
        """
        self.frames = 0
        self.unreadable: list[str] = []
        alone = next((each for each in inputs if _is_image(each)), None)
        if alone is not None:
            raise ValueError(
                f"{alone} is a single image, and flow needs at least two; give the folder of all "
                "frames."
            )
        video = next((each for each in inputs if _is_video(each)), None)
        if video is None:
            self._frames = self._read_folders(find_images(inputs, output))
        elif len(inputs) == 1:
            self._frames = _name_frames(Path(video), read_video(Path(video)))
        else:
            raise ValueError(f"{video} is a video, which must be the only input; give it alone.")

    def pairs(self) -> Iterator[Pair]:
        """Return the pairs of frames, each frame read once.

        There is no pair across an unreadable frame, or where the size changes; the latter is
        logged as a warning.
        """
        new_scene = True
        for before, after in itertools.pairwise(self._counted()):
            if before.folder != after.folder or before.image is None or after.image is None:
                new_scene = True
            elif before.image.shape != after.image.shape:
                logging.warning(
                    "no flow from %s to %s: their sizes are %s and %s.",
                    *(before.name, after.name, before.image.shape[:2], after.image.shape[:2]),
                )
                new_scene = True
            else:
                yield Pair(before.name, before.image, after.image, new_scene)
                new_scene = False

    def _counted(self) -> Iterator["_Frame"]:
        for frame in self._frames:
            self.frames += 1
            yield frame

    def _read_folders(self, images: dict[str, Path]) -> Iterator["_Frame"]:
        def place(entry: tuple[str, Path]) -> tuple:
            return _by_value(str(entry[1].parent)), _by_value(entry[1].name)

        for name, path in sorted(images.items(), key=place):
            try:
                image = read_image(path)
            except BadRecordError as error:
                logging.warning("left out: %s", error)
                self.unreadable.append(str(error))
                image = None
            yield _Frame(name, path.parent, image)


class _Frame(NamedTuple):
    name: str
    folder: Path
    image: Pixels | None


def benchmark_pairs(benchmark: Benchmark, root: str | Path) -> Iterator[Pair]:
    """Return the pairs of a benchmark's test set, named as its server expects them.

    Args:
      benchmark: "sintel", both renders, a scene being a folder; or "kitti", where each pair is a
        scene of its own.
      root: folder that holds Sintel or KITTI.

    Raises:
      ValueError: a file or folder is missing.
      BadRecordError: a frame cannot be read.
    """
    if benchmark == "kitti":
        return _read_pairs((record, record.first) for record in kitti(root, "testing"))
    records = [record for render in ("clean", "final") for record in sintel(root, "test", render)]
    return _read_pairs((record, record.first.parent) for record in records)


def _read_pairs(records: Iterable[tuple[Record, Path]]) -> Iterator[Pair]:
    last = None
    for record, scene in records:
        example = read_example(record)
        yield Pair(record.name, example["first"], example["second"], scene != last)
        last = scene


def _is_image(path: str) -> bool:
    return Path(path).is_file() and Path(path).suffix.lower() in IMAGE_SUFFIXES


def _is_video(path: str) -> bool:
    return not Path(path).is_dir() and Path(path).suffix.lower() not in ("", *IMAGE_SUFFIXES)


def _name_frames(video: Path, images: Iterable[Pixels]) -> Iterator[_Frame]:
    for number, image in enumerate(images, start=1):
        yield _Frame(f"{number:06}", video, image)


def _by_value(name: str) -> list[str | int]:
    """Return a key for sorting in which numbers count by their value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
