"""Read and write files of optical flow and disparity.

    .flo   float32 202021.25, int32 W, int32 H, then H·W pairs (u, v) of float32; little-endian
    .pfm   "PF" (3 channels) or "Pf" (1 channel), "W H", a scale that is negative if the numbers are
           little-endian, then float32 rows from the bottom to the top; flow is in channels 0 and 1
    .png   16 bits: RGB holds 64 u + 2¹⁵, 64 v + 2¹⁵ and whether the pixel is valid; grey holds
           256 times the disparity, 0 where there is none

Flow is (u, v) in pixels, u to the right and v down. KITTI and HD1K have such PNG files.

Source: `core/utils/frame_utils.py`, locuslab/deq-flow.
"""

import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

from mdeq_jax.images.files import read_file
from mdeq_jax.training.reader import BadRecordError

FlowField = Float[np.ndarray, "H W 2"]
Valid = Bool[np.ndarray, "H W"]

# Dense files hold larger numbers where the flow is unknown.
LARGEST_FLOW = 1000.0

_FLO_MAGIC = np.array(202021.25, "<f4").tobytes()
_FLO_HEADER_BYTES = 12
_PFM_HEADER = re.compile(rb"(PF|Pf)\s+(\d+)\s+(\d+)\s+([-+]?)[.\d]+(?:[eE][-+]?\d+)?[ \t]*\r?\n")
_KITTI_ZERO, _KITTI_STEPS = 2**15, 64
_DISPARITY_STEPS = 256


class FlowMap(NamedTuple):
    """Optical flow of one image.

    Attributes:
      flow: float32 (H, W, 2), in pixels; 0 where it is not valid.
      valid: bool (H, W), where the flow is known.
    """

    flow: FlowField
    valid: Valid


def read_flow(path: str | Path) -> FlowMap:
    """Return the flow in a .flo, .pfm or 16-bit .png file.

    In .flo and .pfm files, flow is valid where |u| < 1000 and |v| < 1000.

    Args:
      path: path of the file; its suffix says which format it has.

    Raises:
      BadRecordError: the file cannot be read, is damaged or truncated, or holds no flow.
      ValueError: the suffix is another one.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".flo":
            return as_flow_map(_read_flo(path))
        case ".pfm":
            return as_flow_map(_read_pfm(path, channels=3)[..., :2])
        case ".png":
            blue_green_red = _read_png(path, channels=3)
            known = blue_green_red[..., 0] > 0
            steps = blue_green_red[..., :0:-1].astype(np.float32) - _KITTI_ZERO
            return as_flow_map(steps / _KITTI_STEPS, known)
    raise _unknown_suffix(path, ".flo, .pfm or .png")


def read_disparity(path: str | Path) -> FlowMap:
    """Return the flow (−disparity, 0) from the left to the right image of a stereo pair.

    Disparity is valid where a .pfm file is finite, and where a .png file is above 0.

    Args:
      path: path of a .pfm file of one channel or a grey .png file of 16 bits.

    Raises:
      BadRecordError: the file cannot be read, is damaged or truncated, or holds no disparity.
      ValueError: the suffix is another one.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".pfm":
            disparity = _read_pfm(path, channels=1)
            known = np.isfinite(disparity)
        case ".png":
            disparity = _read_png(path, channels=1).astype(np.float32) / _DISPARITY_STEPS
            known = disparity > 0
        case _:
            raise _unknown_suffix(path, ".pfm or .png")
    return as_flow_map(np.stack([-disparity, np.zeros_like(disparity)], axis=-1), known)


def as_flow_map(flow: FlowField, known: Valid | None = None) -> FlowMap:
    """Return flow as float32, with 0 where it is not valid.

    Args:
      flow: (H, W, 2); not valid where a component is NaN, or 1000 or larger in size.
      known: where the flow is known; by default everywhere.
    """
    valid = np.asarray(np.all(np.abs(flow) < LARGEST_FLOW, axis=-1))
    valid = valid if known is None else valid & known
    return FlowMap(np.where(valid[..., None], flow, 0).astype(np.float32), valid)


def write_flo(path: str | Path, flow: FlowField) -> None:
    """Write a .flo file.

    Args:
      path: path of the file.
      flow: (H, W, 2), in pixels.

    Raises:
      ValueError: the flow has another shape.
    """
    _require_flow(flow)
    size = np.array(flow.shape[1::-1], "<i4").tobytes()
    Path(path).write_bytes(_FLO_MAGIC + size + np.asarray(flow, "<f4").tobytes())


def write_pfm(path: str | Path, array: Float[np.ndarray, "H W *channels"]) -> None:
    """Write a little-endian .pfm file.

    Args:
      path: path of the file.
      array: flow (H, W, 2), which gets a third channel of 0, or disparity (H, W).

    Raises:
      ValueError: the array has another shape.
    """
    if array.ndim != 2:
        _require_flow(array)
        array = np.pad(array, ((0, 0), (0, 0), (0, 1)))
    height, width = array.shape[:2]
    header = f"{'Pf' if array.ndim == 2 else 'PF'}\n{width} {height}\n-1.0\n"
    Path(path).write_bytes(header.encode() + np.asarray(array[::-1], "<f4").tobytes())


def write_kitti(path: str | Path, flow: FlowField, valid: Valid | None = None) -> None:
    """Write a 16-bit PNG file of KITTI, whose steps are 1/64 pixel.

    Components beyond [−512, 512) are clipped, as by KITTI's own tools.

    Args:
      path: path of the file, with the suffix .png.
      flow: (H, W, 2), in pixels.
      valid: bool (H, W), where the flow is known; by default everywhere.

    Raises:
      ValueError: the flow has another shape, or NaN at a valid pixel, or the suffix is another one.
      OSError: the file cannot be written.
    """
    path = Path(path)
    _require_flow(flow)
    if path.suffix.lower() != ".png":
        raise _unknown_suffix(path, ".png")
    known = np.ones(flow.shape[:2], bool) if valid is None else valid
    if np.isnan(flow[known]).any():
        raise ValueError(f"the flow for {path} is NaN at a valid pixel; a PNG file cannot hold it.")
    steps = np.rint(np.where(known[..., None], flow, 0) * _KITTI_STEPS) + _KITTI_ZERO
    red_green_blue = np.dstack([np.clip(steps, 0, 2**16 - 1), known]) * known[..., None]
    if not cv2.imwrite(str(path), red_green_blue[..., ::-1].astype(np.uint16)):
        raise OSError(f"{path} cannot be written; check that its folder exists.")


def _read_flo(path: Path) -> FlowField:
    content = read_file(path)
    if content[:4] != _FLO_MAGIC:
        raise BadRecordError(
            str(path), f"begins with {content[:4]!r}; a .flo file begins with {_FLO_MAGIC!r}."
        )
    width, height = np.frombuffer(content[4:_FLO_HEADER_BYTES].ljust(8, b"\0"), "<i4").tolist()
    return _floats(content[_FLO_HEADER_BYTES:], "<f4", (height, width, 2), path)


def _read_pfm(path: Path, channels: int) -> Shaped[np.ndarray, "H W *channels"]:
    content = read_file(path)
    header = _PFM_HEADER.match(content)
    if not header:
        raise BadRecordError(
            str(path),
            f"begins with {content[:20]!r}; a .pfm file begins with 'PF' or 'Pf', width, height and"
            " scale.",
        )
    kind, width, height, sign = header.groups()
    found = 3 if kind == b"PF" else 1
    _require_channels(path, found, channels)
    shape = int(height), int(width), *([found] if found > 1 else [])
    dtype = "<f4" if sign == b"-" else ">f4"
    return _floats(content[header.end() :], dtype, shape, path)[::-1]


def _read_png(path: Path, channels: int) -> Shaped[np.ndarray, "H W *channels"]:
    """Return the pixels of a 16-bit PNG file; three channels are in the order blue, green, red."""
    content = np.frombuffer(read_file(path), np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
    if pixels is None:
        raise BadRecordError(str(path), "is not an image, or breaks off; copy it again.")
    if pixels.dtype != np.uint16:
        raise BadRecordError(
            str(path),
            f"has {8 * pixels.itemsize} bits per channel; flow and disparity have 16. An image"
            " program may have converted the file; extract it from its archive again.",
        )
    _require_channels(path, 1 if pixels.ndim == 2 else pixels.shape[2], channels)
    return np.asarray(pixels)


def _floats(content: bytes, dtype: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """Return numbers as float32 in a shape, after a check that they fill it."""
    height, width, *channels = shape
    needed = 4 * height * width * (channels[0] if channels else 1)
    if min(height, width) < 1 or len(content) != needed:
        raise BadRecordError(
            str(path),
            f"has {len(content)} bytes after its header, which says {width}×{height} pixels"
            f" ({needed} bytes); the file is damaged or breaks off, copy it again.",
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(np.float32)


def _require_channels(path: Path, found: int, wanted: int) -> None:
    if found != wanted:
        kinds = {1: "disparity, 1 channel", 3: "flow, 3 channels"}
        raise BadRecordError(
            str(path), f"has {found} channel{'s' * (found > 1)}; expected {kinds[wanted]}."
        )


def _require_flow(flow: np.ndarray) -> None:
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"the flow has shape {flow.shape}; it must be (H, W, 2).")


def _unknown_suffix(path: Path, allowed: str) -> ValueError:
    return ValueError(f"{path} has the suffix {path.suffix!r}; it must be {allowed}.")
