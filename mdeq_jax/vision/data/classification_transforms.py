"""Crops, flips and colours for classification, equal to torchvision's.

Source: `tools/cls_train.py`, locuslab/deq, which takes them from torchvision's transforms.
"""

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mdeq_jax.images.decoding import Pixels, Size, decode, size_of

_AREA_SHARE = (0.08, 1.0)
_ASPECT_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
# The share of the image's shorter side that the central crop of an evaluation leaves.
_CENTRE_SHARE = 0.875
# Weights of red, green and blue in grey.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def random_box(size: Size, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw the top, left, height and width of a part of an image.

    The share of the image's area is uniform in [0.08, 1]; width / height is log-uniform in [3/4,
    4/3]. If ten draws do not fit into the image, the part is the largest one about the middle whose
    width / height is in [3/4, 4/3].

    Args:
      size: (H, W) of the image.
      generator: source of the random numbers.
    """
    height, width = size
    for _ in range(_TRIES):
        area = height * width * generator.uniform(*_AREA_SHARE)
        ratio = np.exp(generator.uniform(*np.log(_ASPECT_RATIO)))
        box = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if 0 < box[0] <= height and 0 < box[1] <= width:
            top, left = (
                int(generator.integers(have - want, endpoint=True))
                for have, want in zip(size, box, strict=True)
            )
            return top, left, *box
    low, high = _ASPECT_RATIO
    box = min(height, round(width / low)), min(width, round(height * high))
    return (height - box[0]) // 2, (width - box[1]) // 2, *box


def random_resized_crop(
    encoded: bytes, name: str, size: Size, generator: np.random.Generator
) -> Pixels:
    """Return a random part of an encoded image, drawn by `random_box`, at a size.

    Interpolation is bilinear. In place of a filter against aliasing, a part at least twice as large
    is decoded at 1/2 of its size, one at least four times as large at 1/4, and so on.

    Args:
      encoded: bytes of the file.
      name: name of the image, for messages.
      size: (h, w), the size of the result.
      generator: source of the random numbers.

    Raises:
      BadRecordError: the file is not an image, or is truncated.
    """
    full = size_of(encoded, name)
    top, left, *box = random_box(full, generator)
    needed = tuple(-(-n * want // have) for n, want, have in zip(full, size, box, strict=True))
    pixels = decode(encoded, name, at_least=needed)
    rows, columns = (
        slice(start * have // n, -(-(start + length) * have // n))
        for start, length, have, n in zip((top, left), box, pixels.shape, full, strict=False)
    )
    return cv2.resize(pixels[rows, columns], size[::-1], interpolation=cv2.INTER_LINEAR)


def random_flip(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Mirror half of the images."""
    # A view with a negative stride would be slow to batch.
    return cv2.flip(image, 1) if generator.integers(2) else image


def random_shift(
    image: UInt8[np.ndarray, "H W C"], padding: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "H W C"]:
    """Frame an image with black, and cut out an image of its size.

    Args:
      image: uint8 (H, W, C).
      padding: width of the frame.
      generator: source of the place; every place is equally likely.
    """
    height, width, channels = image.shape
    # np.pad takes eight times as long.
    framed = np.zeros((height + 2 * padding, width + 2 * padding, channels), np.uint8)
    framed[padding : padding + height, padding : padding + width] = image
    top, left = generator.integers(2 * padding, size=2, endpoint=True)
    return framed[top : top + height, left : left + width]


def colour_jitter(image: Pixels, strength: float, generator: np.random.Generator) -> Pixels:
    """Change brightness, contrast and saturation at random, in random order.

    Each mixes the image with another: black, its mean grey, or itself in grey. The result is image
    · a + other · (1 − a), with a uniform in [max(0, 1 − strength), 1 + strength].

    Args:
      image: uint8 (H, W, 3), RGB.
      strength: largest change of each factor, at least 0.
      generator: source of the random numbers.
    """
    pixels = image.astype(np.float32)
    for kind in generator.permutation(3):
        grey = pixels @ _LUMA
        other = (0, grey.mean(), grey[..., None])[kind]
        share = generator.uniform(max(0, 1 - strength), 1 + strength)
        pixels = np.clip(share * pixels + (1 - share) * other, 0, 255)
    return np.rint(pixels).astype(np.uint8)


def centre(image: Pixels, size: Size) -> Pixels:
    """Return the middle of an image whose shorter side is scaled to 8/7 of the size.

    This equals torchvision's Resize(int(size / 0.875)) and CenterCrop(size). Interpolation is
    bilinear, and pixels are averaged where the image shrinks, as in Pillow.

    Args:
      image: uint8 (H, W, 3).
      size: (n, n), the size of the result.
    """
    side, sides = int(size[0] / _CENTRE_SHARE), image.shape[:2]
    scaled = [side * n // min(sides) for n in sides]
    picture = Image.fromarray(image).resize(tuple(scaled[::-1]), Image.Resampling.BILINEAR)
    top, left = (round((have - want) / 2) for have, want in zip(scaled, size, strict=True))
    return np.asarray(picture)[top : top + size[0], left : left + size[1]]


def scaled_middle(image: Pixels, size: Size) -> Pixels:
    """Return the largest part about the middle that has the sides' ratio, at that size.

    Args:
      image: uint8 (H, W, 3).
      size: (h, w), the size of the result.
    """
    shape = image.shape[:2]
    zoom = min(have / want for have, want in zip(shape, size, strict=True))
    sides = [max(1, round(want * zoom)) for want in size]
    top, left = ((have - side) // 2 for have, side in zip(shape, sides, strict=True))
    piece = image[top : top + sides[0], left : left + sides[1]]
    interpolation = cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(piece, size[::-1], interpolation=interpolation))
