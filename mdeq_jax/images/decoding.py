"""The decoder of all images: from the bytes of a file to RGB pixels, or to the ids of labels.

Training, evaluation and prediction all decode here, so that they agree on which files are bad.
"""

import io

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL.PngImagePlugin import PngImageFile

from mdeq_jax.training.reader import BadRecordError

# (height, width)
Size = tuple[int, ...]
Pixels = UInt8[np.ndarray, "H W 3"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The largest images that OpenCV decodes.
_MAX_SIDE, _MAX_PIXELS = 2**20, 2**30

_BROKEN = "is not an image, or breaks off; copy or save it again."
_TOO_LARGE = (
    f"is damaged, or has more than {_MAX_PIXELS:,} pixels or {_MAX_SIDE:,} on a side; save it"
    " again, smaller."
)


def decode(encoded: bytes, name: str, at_least: Size | None = None) -> Pixels:
    """Return the pixels of an encoded image, RGB.

    Grey is repeated and CMYK converted. A rotation in the file's EXIF data is ignored, as TFDS and
    torchvision ignore it.

    Args:
      encoded: bytes of the file: JPEG, PNG or another format that OpenCV reads.
      name: name of the image, for messages.
      at_least: (H, W). If given, a JPEG may come at 1/8 to 4/8 of its size, as long as no side is
        shorter than this.

    Raises:
      BadRecordError: the file is not an image, is truncated, or is too large.
    """
    height, width = at_least or (0, 0)
    try:
        if header_size(encoded):
            # A quarter faster than OpenCV, with the same pixels.
            return simplejpeg.decode_jpeg(
                encoded, min_height=height, min_width=width, min_factor=2 if at_least else 1
            )
    except ValueError:
        pass  # another format, other colours, or broken
    # Not cv2.imread, which fills up a truncated JPEG with grey.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    plain = np.frombuffer(_without_annotations(encoded), np.uint8)
    try:
        pixels = cv2.imdecode(plain, flags) if encoded else None
    except cv2.error as error:
        raise BadRecordError(name, _TOO_LARGE) from error
    if pixels is None:
        raise BadRecordError(name, _BROKEN)
    return np.asarray(pixels)


def size_of(encoded: bytes, name: str) -> Size:
    """Return the height and the width of an encoded image, which is decoded if `header_size` fails.

    Args:
      encoded: bytes of the file.
      name: name of the image, for messages.

    Raises:
      BadRecordError: the file is not an image, its header is truncated, or it is too large to be
        decoded.
    """
    return header_size(encoded) or decode(encoded, name).shape[:2]


def header_size(encoded: bytes) -> Size | None:
    """Return the height and the width in the header of a JPEG or PNG file.

    Args:
      encoded: bytes of the file, or the first of them.

    Returns:
      (H, W), or None if there is no such header or OpenCV decodes no image of that size.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        if not encoded.startswith(_PNG_SIGNATURE):
            return None
        width, height = (int.from_bytes(encoded[start : start + 4], "big") for start in (16, 20))
    size = int(height), int(width)
    return size if _is_decodable(*size) else None


def _is_decodable(height: int, width: int) -> bool:
    return max(height, width) <= _MAX_SIDE and 0 < height * width <= _MAX_PIXELS


def decode_label(encoded: bytes, name: str) -> UInt8[np.ndarray, "H W"]:
    """Return the ids in a label image of one 8-bit channel, or the indices of a palette image.

    Args:
      encoded: bytes of a PNG file.
      name: name of the file, for messages.

    Raises:
      BadRecordError: the file is not a PNG image, or is truncated.
      ValueError: the image has other channels.
    """
    try:
        # OpenCV would replace the indices of a palette by its colours. Image.open refuses images
        # that are large but can be decoded.
        with PngImageFile(io.BytesIO(_without_annotations(encoded))) as image:
            if not _is_decodable(image.height, image.width):
                raise ValueError(f"{image.width}×{image.height} pixels")
            mode, ids = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all of them
        raise BadRecordError(
            name, f"is not an image, or breaks off ({error}); copy or save it again, as PNG."
        ) from error
    if mode not in ("L", "P"):
        raise ValueError(
            f"the label file {name} has pixels of mode {mode!r}; it must have one channel of 8 bits"
            " ('L'), or a palette ('P')."
        )
    return ids


def _without_annotations(encoded: bytes) -> bytes:
    """Return a PNG file without texts and colour profiles, and other files as they are.

    OpenCV and Pillow refuse large texts and profiles. A chunk that decoders need has a type that
    begins with a capital letter.
    """
    if not encoded.startswith(_PNG_SIGNATURE):
        return encoded
    kept, start = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while start < len(encoded):
        end = start + 12 + int.from_bytes(encoded[start : start + 4], "big")
        if encoded[start + 4 : start + 5].isupper():
            kept.append(encoded[start:end])
        start = end
    return b"".join(kept)
