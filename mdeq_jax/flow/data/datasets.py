"""The image pairs of the published data sets, below one folder under the authors' names.

    ROOT/chairs_split.txt or ROOT/FlyingChairs_release/chairs_split.txt
    ROOT/FlyingChairs_release/data/00001_{img1.ppm,img2.ppm,flow.flo}
    ROOT/FlyingThings3D/{frames_cleanpass,frames_finalpass}/TRAIN/A/0000/left/*.png
    ROOT/FlyingThings3D/optical_flow/TRAIN/A/0000/{into_future,into_past}/left/*.pfm
    ROOT/Sintel/{training,test}/{clean,final}/SCENE/frame_0001.png
    ROOT/Sintel/training/flow/SCENE/frame_0001.flo
    ROOT/KITTI/{training,testing}/image_2/000000_{10,11}.png
    ROOT/KITTI/training/flow_occ/000000_10.png
    ROOT/HD1k/hd1k_input/image_2/000000_*.png
    ROOT/HD1k/hd1k_flow_gt/flow_occ/000000_*.png

Source: `core/datasets.py`, locuslab/deq-flow. There, a missing file shifts the flow of all pairs
after it; here it is an error.
"""

from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mdeq_jax.checks import require_one_of
from mdeq_jax.flow.data.formats import read_flow
from mdeq_jax.images.files import read_image, read_text
from mdeq_jax.training.reader import BadRecordError, Example

# What chairs_split.txt says of a pair.
_CHAIRS_SPLITS = {"training": "1", "validation": "2"}

# Where each folder below the root can be had.
_SOURCES = {
    "FlyingChairs_release": "https://lmb.informatik.uni-freiburg.de/resources/datasets",
    "FlyingThings3D": "https://lmb.informatik.uni-freiburg.de/resources/datasets",
    "Sintel": "http://sintel.is.tue.mpg.de",
    "KITTI": "https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php?benchmark=flow",
    "HD1k": "http://hci-benchmark.iwr.uni-heidelberg.de",
}


class Record(NamedTuple):
    """The files of an image pair.

    Attributes:
      name: name of the pair, relative to its data set. For Sintel and KITTI, it is the path of the
        pair's flow in a submission, without suffix.
      first: path of the first image.
      second: path of the second image.
      flow: path of the flow from the first to the second image; None if it is not published.
    """

    name: str
    first: Path
    second: Path
    flow: Path | None


def read_example(record: Record) -> Example:
    """Return the images of a pair and its flow.

    Returns:
      "first" and "second", uint8 (H, W, 3), RGB. If the record has flow, also "flow", float32
      (H, W, 2) in pixels, 0 where it is not valid, and "valid", bool (H, W).

    Raises:
      BadRecordError: a file cannot be read, the sizes differ, or the flow is nowhere valid.
      OSError: a folder has vanished.
    """
    first, second = read_image(record.first), read_image(record.second)
    _require_same_size(record.second, second, record.first, first)
    if record.flow is None:
        return {"first": first, "second": second}
    flow, valid = read_flow(record.flow)
    _require_same_size(record.flow, flow, record.first, first)
    if not valid.any():
        raise BadRecordError(
            str(record.flow), "has no valid pixel, so that nothing can be learned or measured."
        )
    return {"first": first, "second": second, "flow": flow, "valid": valid}


def chairs(root: str | Path, split: Literal["training", "validation"]) -> list[Record]:
    """Return the pairs of FlyingChairs: 22,232 for training, 640 for validation.

    Args:
      root: folder that holds FlyingChairs_release.
      split: "training" or "validation".

    Raises:
      ValueError: a file is missing, or chairs_split.txt is of another length.
    """
    require_one_of("split", split, tuple(_CHAIRS_SPLITS))
    firsts = _find(root, "FlyingChairs_release/data/*_img1.ppm")
    records = []
    for first, entry in zip(firsts, _chairs_split(root, len(firsts)), strict=True):
        if entry == _CHAIRS_SPLITS[split]:
            name = first.name.removesuffix("_img1.ppm")
            second, flow = (first.with_name(name + end) for end in ("_img2.ppm", "_flow.flo"))
            records.append(_record(name, first, second, flow))
    return records


def things(root: str | Path, render: Literal["cleanpass", "finalpass"]) -> list[Record]:
    """Return the training pairs of FlyingThings3D, left camera, forward and backward in time.

    Args:
      root: folder that holds FlyingThings3D.
      render: "cleanpass" or "finalpass".

    Raises:
      ValueError: a folder is missing or empty, or a scene has not one flow for each image.
    """
    require_one_of("render", render, ("cleanpass", "finalpass"))
    frames = Path(root, "FlyingThings3D", f"frames_{render}")
    records = []
    for scene in _find(root, f"FlyingThings3D/frames_{render}/TRAIN/*/*/"):
        place = scene.relative_to(frames)
        images = _find(root, f"FlyingThings3D/frames_{render}/{place}/left/*.png")
        for direction, step in (("into_future", 1), ("into_past", -1)):
            flows = _find(root, f"FlyingThings3D/optical_flow/{place}/{direction}/left/*.pfm")
            if len(flows) != len(images):
                raise ValueError(
                    f"{flows[0].parent} holds {len(flows)} flow files, but {scene / 'left'} holds"
                    f" {len(images)} images; there must be one for each, extract both again."
                )
            in_order = list(zip(images, flows, strict=True))[::step]
            records += [
                Record(f"{place}/{direction}/{first.stem}", first, second, flow)
                for (first, flow), (second, _) in pairwise(in_order)
            ]
    return records


def sintel(
    root: str | Path, split: Literal["training", "test"], render: Literal["clean", "final"]
) -> list[Record]:
    """Return the pairs of MPI Sintel, scene by scene in the order of time.

    Args:
      root: folder that holds Sintel.
      split: "training", or "test", which has no flow.
      render: "clean" or "final".

    Raises:
      ValueError: a file or folder is missing.
    """
    require_one_of("split", split, ("training", "test"))
    require_one_of("render", render, ("clean", "final"))
    records = []
    for scene in _find(root, f"Sintel/{split}/{render}/*/"):
        flows = Path(root, "Sintel", split, "flow", scene.name)
        images = _find(root, f"Sintel/{split}/{render}/{scene.name}/*.png")
        for number, (first, second) in enumerate(pairwise(images), start=1):
            flow = flows / f"{first.stem}.flo" if split == "training" else None
            name = f"{render}/{scene.name}/frame{number:04}"
            records.append(_record(name, first, second, flow))
    return records


def kitti(root: str | Path, split: Literal["training", "testing"]) -> list[Record]:
    """Return the pairs of KITTI 2015, 200 of each split.

    Args:
      root: folder that holds KITTI.
      split: "training", or "testing", which has no flow.

    Raises:
      ValueError: a file or folder is missing.
    """
    require_one_of("split", split, ("training", "testing"))
    records = []
    for first in _find(root, f"KITTI/{split}/image_2/*_10.png"):
        second = first.with_name(f"{first.stem.removesuffix('10')}11.png")
        flow = Path(root, "KITTI", split, "flow_occ", first.name)
        records.append(_record(first.stem, first, second, flow if split == "training" else None))
    return records


def hd1k(root: str | Path) -> list[Record]:
    """Return the training pairs of HD1K, film by film in the order of time.

    Args:
      root: folder that holds HD1k.

    Raises:
      ValueError: a file or folder is missing.
    """
    flows = Path(root, "HD1k", "hd1k_flow_gt", "flow_occ")
    images = _find(root, "HD1k/hd1k_input/image_2/*_*.png")
    return [
        _record(first.stem, first, second, flows / first.name)
        for first, second in pairwise(images)
        if first.name.split("_")[0] == second.name.split("_")[0]
    ]


def _find(root: str | Path, pattern: str) -> list[Path]:
    """Return what matches a pattern below the root, sorted; one that ends with / means folders."""
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"config.data.root is {str(root)!r}, which is not a folder.")
    found = sorted(path for path in root.glob(pattern) if not path.name.startswith("."))
    if not found:
        name = pattern.split("/")[0]
        raise ValueError(
            f"config.data.root is {str(root)!r}, which has no {pattern}; extract the data set"
            f" there, as the folder {name}, from {_SOURCES[name]}."
        )
    return found


def _record(name: str, first: Path, second: Path, flow: Path | None) -> Record:
    for path in (second, flow):
        if path and not path.is_file():
            raise ValueError(
                f"{path} is not there, although {first} is; extract it again, or remove the pair."
            )
    return Record(name, first, second, flow)


def _chairs_split(root: str | Path, pairs: int) -> list[str]:
    name = "chairs_split.txt"
    places = [Path(root, name), Path(root, "FlyingChairs_release", name)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(
            f"neither {places[0]} nor {places[1]} is there; copy {name} from the folder code.v.2.0"
            " of https://github.com/locuslab/deq-flow."
        )
    entries = read_text(path).split()
    if len(entries) != pairs or not set(entries) <= set(_CHAIRS_SPLITS.values()):
        raise ValueError(
            f"{path} has {len(entries)} entries, but FlyingChairs_release/data has {pairs} pairs;"
            " it must have one entry for each, 1 (training) or 2 (validation)."
        )
    return entries


def _require_same_size(path: Path, array: np.ndarray, first: Path, image: np.ndarray) -> None:
    if array.shape[:2] != image.shape[:2]:
        raise BadRecordError(
            str(path), f"is of size {array.shape[:2]}, but {first} is of size {image.shape[:2]}."
        )
