"""Augmentation of image pairs: colours, boxes, scale, flips and a crop, the flow as one with them.

Dense flow is interpolated bilinearly, as images are. Sparse flow is moved to the nearest pixel.

Source: `core/utils/augmentor.py`, locuslab/deq-flow. Two things differ. Sparse flow goes to the
pixel in which the centre of its old pixel lies, which is where the image goes. A new pixel is valid
only if all pixels that it is interpolated from are valid.
"""

import dataclasses

import cv2
import numpy as np

from mdeq_jax.flow.data.colours import Jitter, colour_jitter, erase
from mdeq_jax.images.decoding import Size
from mdeq_jax.training.reader import Example


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How pairs are augmented. By default, a crop is all that happens.

    Attributes:
      jitter: the largest changes of colour.
      jitter_apart: probability that each image has its own change of colour.
      erase: probability that 1 or 2 boxes hide parts of the second image.
      erase_sides: shortest and longest side of a box, in pixels.
      scale: least and largest binary logarithm of the scale, which is uniform between them.
      scale_probability: probability that the pair is scaled.
      stretch: largest binary logarithm of a further scale, drawn for each axis.
      stretch_probability: probability that the axes have further scales.
      margin: number of pixels that a scaled image has at least beyond the crop.
      flips: probabilities of a horizontal and of a vertical flip.
      overhang: ((top, bottom), (left, right)), the number of pixels that the crop may be drawn
        beyond each edge, from where it is moved to the edge. This makes crops at the edge likelier.
      sparse: whether flow is known at single pixels, and is not to be interpolated.
    """

    jitter: Jitter = Jitter()
    jitter_apart: float = 0.0
    erase: float = 0.0
    erase_sides: tuple[int, int] = (50, 99)
    scale: tuple[float, float] = (0.0, 0.0)
    scale_probability: float = 0.0
    stretch: float = 0.2
    stretch_probability: float = 0.0
    margin: int = 0
    flips: tuple[float, float] = (0.0, 0.0)
    overhang: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    sparse: bool = False


_DENSE = Recipe(
    jitter=Jitter(0.4, 0.4, 0.4, 0.5 / 3.14),
    jitter_apart=0.2,
    erase=0.5,
    scale_probability=0.8,
    stretch_probability=0.8,
    margin=8,
    flips=(0.5, 0.1),
)
_SPARSE = Recipe(
    jitter=Jitter(0.3, 0.3, 0.3, 0.3 / 3.14),
    erase=0.5,
    scale_probability=0.8,
    margin=1,
    overhang=((0, 20), (50, 50)),
    sparse=True,
)

# "sintel_kitti" and "sintel_hd1k" are for the sparse parts of the mixture "sintel".
RECIPES = {
    "chairs": dataclasses.replace(_DENSE, scale=(-0.1, 1.0)),
    "things": dataclasses.replace(_DENSE, scale=(-0.4, 0.8)),
    "sintel": dataclasses.replace(_DENSE, scale=(-0.2, 0.6)),
    "sintel_kitti": dataclasses.replace(_SPARSE, scale=(-0.3, 0.5), flips=(0.5, 0.0)),
    "sintel_hd1k": dataclasses.replace(_SPARSE, scale=(-0.5, 0.2), flips=(0.5, 0.0)),
    "kitti": dataclasses.replace(_SPARSE, scale=(-0.2, 0.4)),
}


def augment(
    example: Example, recipe: Recipe, crop: Size, generator: np.random.Generator
) -> Example:
    """Return an augmented training example.

    Args:
      example: "first" and "second" uint8 (H, W, 3), "flow" float32 (H, W, 2) in pixels, "valid"
        bool (H, W).
      recipe: how it is augmented.
      crop: (h, w), the size of the result. A smaller image is scaled up.
      generator: source of all random numbers.

    Returns:
      The same keys and dtypes, of size (h, w).
    """
    example = _colour(example, recipe, generator)
    example = resize(example, _draw_size(example, recipe, crop, generator), sparse=recipe.sparse)
    horizontal, vertical = generator.uniform(size=2) < recipe.flips
    example = flip(example, horizontal=bool(horizontal), vertical=bool(vertical))
    top, left = (
        int(np.clip(generator.integers(-before, spare + after, endpoint=True), 0, spare))
        for spare, (before, after) in zip(
            np.subtract(example["valid"].shape, crop), recipe.overhang, strict=True
        )
    )
    window = slice(top, top + crop[0]), slice(left, left + crop[1])
    return {name: np.ascontiguousarray(array[window]) for name, array in example.items()}


def resize(example: Example, size: Size, *, sparse: bool) -> Example:
    """Return an example at another size, bilinearly, its flow in the new pixels.

    Args:
      example: "first" and "second" uint8 (H, W, 3), "flow" float32 (H, W, 2), "valid" bool (H, W).
      size: (h, w) of the result.
      sparse: whether flow is moved to the nearest pixel and not interpolated.
    """
    if example["valid"].shape == tuple(size):
        return example
    first, second = (_bilinear(example[name], size) for name in ("first", "second"))
    scale = np.divide(size, example["valid"].shape)
    move = _moved if sparse else _interpolated
    flow, valid = move(example["flow"], example["valid"], size)
    flow = flow * scale[::-1].astype(np.float32)
    return {"first": first, "second": second, "flow": flow, "valid": valid}


def flip(example: Example, *, horizontal: bool, vertical: bool) -> Example:
    """Return a mirrored example, the sign of the mirrored component of its flow changed.

    Args:
      example: "first" and "second" uint8 (H, W, 3), "flow" float32 (H, W, 2), "valid" bool (H, W).
      horizontal: whether left and right are exchanged.
      vertical: whether top and bottom are exchanged.
    """
    x, y = -1 if horizontal else 1, -1 if vertical else 1
    flipped = {name: array[::y, ::x] for name, array in example.items()}
    return {**flipped, "flow": flipped["flow"] * np.array([x, y], np.float32)}


def _colour(example: Example, recipe: Recipe, generator: np.random.Generator) -> Example:
    first, second = example["first"], example["second"]
    if generator.uniform() < recipe.jitter_apart:
        first = colour_jitter(first, recipe.jitter, generator)
        second = colour_jitter(second, recipe.jitter, generator)
    else:
        both = colour_jitter(np.concatenate([first, second]), recipe.jitter, generator)
        first, second = np.split(both, 2)
    if generator.uniform() < recipe.erase:
        boxes = int(generator.integers(1, 2, endpoint=True))
        second = erase(second, boxes, recipe.erase_sides, generator)
    return {**example, "first": first, "second": second}


def _draw_size(
    example: Example, recipe: Recipe, crop: Size, generator: np.random.Generator
) -> Size:
    """Return the size to scale an example to, at least that of the crop."""
    scales, margin = np.ones(2), 0
    if generator.uniform() < recipe.scale_probability:
        scales, margin = scales * 2 ** generator.uniform(*recipe.scale), recipe.margin
        if generator.uniform() < recipe.stretch_probability:
            scales *= 2 ** generator.uniform(-recipe.stretch, recipe.stretch, size=2)
    size = np.array(example["valid"].shape)
    # The larger of both axes' least scales, so that a pair is not stretched to fill the crop.
    least = ((np.array(crop) + margin) / size).max()
    height, width = np.rint(size * np.maximum(scales, least)).astype(int).tolist()
    return height, width


def _interpolated(flow: np.ndarray, valid: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    known = _bilinear(valid.astype(np.float32), size) > 0.999  # 1 up to rounding
    return np.where(known[..., None], _bilinear(flow, size), 0), known


def _moved(flow: np.ndarray, valid: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    old = np.nonzero(valid)
    new = tuple(
        ((2 * index + 1) * to // (2 * have)).astype(np.intp)
        for index, to, have in zip(old, size, valid.shape, strict=True)
    )
    moved, known = np.zeros((*size, 2), np.float32), np.zeros(size, bool)
    moved[new], known[new] = flow[old], True
    return moved, known


def _bilinear(array: np.ndarray, size: Size) -> np.ndarray:
    return np.asarray(cv2.resize(array, tuple(size[::-1]), interpolation=cv2.INTER_LINEAR))
