"""Scenes whose flow is known: textured polygons that move over a moving photograph.

The photographs are the two of scikit-learn. Their left halves are for training, their right halves
for tests.
"""

import functools
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
from jaxtyping import Complex, UInt8

from mdeq_jax.checks import needs_extra, require_one_of, require_whole
from mdeq_jax.flow.data.planes import Layer, motion, render
from mdeq_jax.images.decoding import Size

Split = Literal["train", "test"]

# Share of the largest motion that rotation and scaling may take, and the most that they may be.
_TURN_SHARE, _LARGEST_TURN = 0.3, 0.2
# Radii of objects as a share of the image's shorter side, and pixels of a photograph per pixel.
_RADII, _ZOOMS = (0.15, 0.35), (0.5, 1)
_CORNERS = (3, 8)


class Photograph(NamedTuple):
    """A photograph, and the places in it that are not plain.

    Attributes:
      pixels: RGB, 0 to 255.
      textured: the quarter of all positions x + iy around which the grey values vary most.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    textured: Complex[np.ndarray, " n"]


def draw_layers(
    generator: np.random.Generator,
    size: Size,
    max_motion: float = 6.0,
    objects: int = 4,
    split: Split = "train",
) -> list[Layer]:
    """Return a random scene: the background, then the objects from the farthest to the nearest.

    Args:
      generator: where all random numbers come from.
      size: (H, W), each at least 8.
      max_motion: the largest |flow| from frame 0 to frame 1, in pixels. A later flow may be larger
        where a layer grows.
      objects: number of polygons, at least 0.
      split: "train" or "test", whose textures are of different halves of the photographs.

    Raises:
      ValueError: an argument is out of range.
    """
    require_one_of("split", split, get_args(Split))
    require_whole("objects", objects, 0)
    require_whole("the height of a scene", size[0], 8)
    require_whole("the width of a scene", size[1], 8)
    if not 0 <= max_motion < np.inf:
        raise ValueError(f"max_motion is {max_motion!r}; it must be a number of at least 0.")
    height, width = size
    middle = complex(width - 1, height - 1) / 2
    layers = [_draw_layer(generator, middle, abs(middle), max_motion, split)]
    for _ in range(objects):
        radius = min(size) * generator.uniform(*_RADII)
        centre = complex(generator.uniform(0, width - 1), generator.uniform(0, height - 1))
        layer = _draw_layer(generator, centre, radius, max_motion, split)
        layers.append(layer._replace(**_draw_polygon(generator, radius)))
    return layers


def film(
    generator: np.random.Generator,
    size: Size,
    frames: int,
    max_motion: float = 6.0,
    objects: int = 4,
    split: Split = "train",
) -> dict[str, np.ndarray]:
    """Return T frames of a random scene, with the flow from each frame to the next.

    Args:
      generator: where all random numbers come from.
      size: (H, W), each at least 8.
      frames: the number T of frames, at least 2.
      max_motion: the largest |flow| from the first frame to the second, in pixels.
      objects: number of polygons, at least 0.
      split: "train" or "test".

    Returns:
      "frames": uint8 (T, H, W, 3), RGB; "flow": float32 (T − 1, H, W, 2); "valid" and "occluded":
      bool (T − 1, H, W), see `motion`.

    Raises:
      ValueError: an argument is out of range.
    """
    require_whole("frames", frames, 2)
    layers = draw_layers(generator, size, max_motion, objects, split)
    motions = [motion(layers, size, t) for t in range(frames - 1)]
    stacked = {name: np.stack([each[name] for each in motions]) for name in motions[0]}
    return {"frames": np.stack([render(layers, size, t) for t in range(frames)]), **stacked}


def scene(
    generator: np.random.Generator,
    size: Size,
    max_motion: float = 6.0,
    objects: int = 4,
    split: Split = "train",
) -> dict[str, np.ndarray]:
    """Return two images of a random scene, with the flow from the first to the second.

    Args:
      generator: where all random numbers come from.
      size: (H, W), each at least 8.
      max_motion: the largest |flow|, in pixels.
      objects: number of polygons, at least 0.
      split: "train" or "test".

    Returns:
      "first" and "second": uint8 (H, W, 3), RGB; "flow": float32 (H, W, 2); "valid" and "occluded":
      bool (H, W), see `motion`.

    Raises:
      ValueError: an argument is out of range.

    Examples:
      >>> scene(np.random.default_rng(0), (64, 96))["flow"].shape
      (64, 96, 2)
    """
    layers = draw_layers(generator, size, max_motion, objects, split)
    first, second = (render(layers, size, t) for t in range(2))
    return {"first": first, "second": second, **motion(layers, size, 0)}


def example(
    number: int,
    seed: int,
    split: Split,
    size: Size,
    max_motion: float = 6.0,
    objects: int = 4,
) -> dict[str, np.ndarray]:
    """Return the example of one number in an endless set of scenes.

    Args:
      number: at least 0. The examples of two numbers are drawn independently.
      seed: at least 0; it determines the set.
      split: "train" or "test".
      size: (H, W), each at least 8.
      max_motion: the largest |flow|, in pixels.
      objects: number of polygons, at least 0.

    Returns:
      The arrays of `scene`.

    Raises:
      ValueError: an argument is out of range.
    """
    require_one_of("split", split, get_args(Split))
    generator = np.random.default_rng((seed, get_args(Split).index(split), number))
    return scene(generator, size, max_motion, objects, split)


@functools.cache
def photographs(split: Split) -> tuple[Photograph, ...]:
    """Return the halves of scikit-learn's photographs for a split, shrunk to half their size."""
    with needs_extra("flow"):
        from sklearn.datasets import load_sample_images  # only generated scenes need it
    halves = []
    for image in load_sample_images().images:
        middle = image.shape[1] // 2
        half = image[:, :middle] if split == "train" else image[:, middle:]
        half = cv2.resize(half, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        # Motion cannot be seen where this eigenvalue is small: there grey values vary in no
        # direction, or in one.
        texture = cv2.cornerMinEigenVal(cv2.cvtColor(half, cv2.COLOR_RGB2GRAY), blockSize=21)
        y, x = np.nonzero(texture > np.quantile(texture, 0.75))
        halves.append(Photograph(half, x + 1j * y))
    return tuple(halves)


def _draw_layer(
    generator: np.random.Generator, centre: complex, reach: float, max_motion: float, split: Split
) -> Layer:
    """Return a layer without sides whose motion is bounded up to `reach` from its centre.

    |flow| = |v + (m − 1)·u| ≤ |v| + |m − 1|·reach ≤ max_motion.
    """
    halves = photographs(split)
    photograph = halves[generator.integers(len(halves))]
    turn = min(_TURN_SHARE * max_motion / reach, _LARGEST_TURN) * generator.uniform()
    # The square root makes the velocity uniform in its disc.
    speed = max_motion * (1 - _TURN_SHARE) * np.sqrt(generator.uniform())
    return Layer(
        photograph.pixels,
        anchor=photograph.textured[generator.integers(len(photograph.textured))],
        zoom=generator.uniform(*_ZOOMS) * _draw_direction(generator),
        centre=centre,
        velocity=speed * _draw_direction(generator),
        turn=1 + turn * _draw_direction(generator),
    )


def _draw_direction(generator: np.random.Generator) -> complex:
    return np.exp(2j * np.pi * generator.uniform())


def _draw_polygon(generator: np.random.Generator, radius: float) -> dict[str, np.ndarray]:
    """Return normals and distances of the sides of a polygon with its corners on a circle."""
    corners = generator.integers(*_CORNERS, endpoint=True)
    places = np.arange(corners) + generator.uniform(0, 0.8, corners)
    angles = 2 * np.pi / corners * np.append(places, places[0] + corners)
    normals = np.exp(1j * (angles[1:] + angles[:-1]) / 2)
    return {"normals": normals, "distances": radius * np.cos(np.diff(angles) / 2)}
