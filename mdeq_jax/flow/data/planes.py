"""Textured planes that move over one another: their pictures, and their flow in closed form.

Points of the plane are complex numbers x + iy, with pixel centres at whole numbers. The point u of
a layer, relative to the layer's centre c, lies in frame t at

    p = c + t·v + mᵗ·u

where v is the layer's velocity, and m = s·exp(iω) scales by s and turns by ω. The flow from frame t
to the next is therefore v + (m − 1)(p − c − t·v), in closed form at every pixel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Complex, Float, Float32, UInt8

from mdeq_jax.images.decoding import Size


class Layer(NamedTuple):
    """A moving plane with a photograph on it, cut to a convex polygon.

    Attributes:
      photograph: the photograph, which mirrors itself beyond its sides.
      anchor: the position in the photograph of the layer's centre.
      zoom: pixels of the photograph per pixel, times the factor exp(iα) of a rotation.
      centre: the position c of the layer's centre in frame 0.
      velocity: v, in pixels per frame.
      turn: m, the factor per frame of rotation and scaling around the centre.
      normals: outer normals of the polygon's sides, of modulus 1. A layer without sides is a
        background that covers the whole plane.
      distances: distances of the polygon's sides from the layer's centre, in pixels of frame 0.
    """

    photograph: UInt8[np.ndarray, "h w 3"]
    anchor: complex
    zoom: complex
    centre: complex
    velocity: complex = 0
    turn: complex = 1
    normals: Complex[np.ndarray, " sides"] = np.empty(0, complex)
    distances: Float[np.ndarray, " sides"] = np.empty(0)

    def locate(self, points: Complex[np.ndarray, "*s"], t: int) -> Complex[np.ndarray, "*s"]:
        """Return the points u of the layer that lie at positions p of frame t."""
        return (points - (self.centre + t * self.velocity)) * self.turn**-t

    def place(self, u: Complex[np.ndarray, "*s"], t: int) -> Complex[np.ndarray, "*s"]:
        """Return the positions p in frame t of points u of the layer."""
        return u * self.turn**t + (self.centre + t * self.velocity)

    def depth(self, u: Complex[np.ndarray, "H W"], t: int) -> Float32[np.ndarray, "H W"]:
        """Return how far inside the polygon points u are, in pixels of frame t; < 0 is outside."""
        # Single precision is exact to 1e-5 pixels and takes half the time.
        u, normals = u.astype(np.complex64), self.normals.astype(np.complex64)
        outwards = (u * normals.conj()[:, None, None]).real
        distances = self.distances.astype(np.float32)[:, None, None]
        depth = np.min(distances - outwards, axis=0, initial=np.inf)
        return depth * np.float32(abs(self.turn) ** t)

    def paint(self, u: Complex[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
        """Return the colours of points u, by linear interpolation in the photograph."""
        places = (u * self.zoom + self.anchor).astype(np.complex64)
        border = cv2.BORDER_REFLECT_101
        colours = cv2.remap(
            self.photograph, places.real, places.imag, cv2.INTER_LINEAR, borderMode=border
        )
        return np.asarray(colours)


def render(layers: Sequence[Layer], size: Size, t: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return frame t of a scene.

    Args:
      layers: the background, then the objects from the farthest to the nearest.
      size: (H, W).
      t: the number of the frame, from 0.

    Returns:
      The frame, RGB. A side of a polygon is one pixel soft: the colour of a pixel whose centre is a
      distance d inside the polygon is mixed in with the weight d + ½, clipped to 0…1.
    """
    pixels = _grid(size)
    image = np.zeros((*size, 3), np.uint8)
    for layer in layers:
        u = layer.locate(pixels, t)
        weight = np.clip(layer.depth(u, t) + 0.5, 0, 1)
        image = cv2.blendLinear(layer.paint(u), image, weight, 1 - weight)
    return np.asarray(image)


def motion(layers: Sequence[Layer], size: Size, t: int) -> dict[str, np.ndarray]:
    """Return where the pixels of frame t are in frame t + 1.

    A pixel belongs to the nearest layer that holds its centre.

    Args:
      layers: the background, then the objects from the farthest to the nearest.
      size: (H, W).
      t: the number of the frame, from 0.

    Returns:
      "flow": float32 (H, W, 2), in pixels, x to the right and y down; "valid": bool (H, W), all
      true; "occluded": bool (H, W), true where the target lies outside the pixels of frame t + 1 or
      is covered there by a nearer layer.
    """
    pixels = _grid(size)
    owner = np.zeros(size, int)
    target = pixels
    for number, layer in enumerate(layers):
        u = layer.locate(pixels, t)
        inside = layer.depth(u, t) >= 0
        owner[inside] = number
        target = np.where(inside, layer.place(u, t + 1), target)
    x, y = np.real(target), np.imag(target)
    height, width = size
    occluded = (x < -0.5) | (x >= width - 0.5) | (y < -0.5) | (y >= height - 0.5)
    for number, layer in enumerate(layers[1:], 1):
        covers = layer.depth(layer.locate(target, t + 1), t + 1) >= 0
        occluded |= covers & (number > owner)
    return {"flow": _pairs(target - pixels), "valid": np.ones(size, bool), "occluded": occluded}


def _grid(size: Size) -> Complex[np.ndarray, "H W"]:
    """Return the positions of the pixels."""
    height, width = size
    return np.arange(width) + 1j * np.arange(height)[:, None]


def _pairs(points: Complex[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W 2"]:
    """Return complex numbers as pairs of real ones."""
    return points.astype(np.complex64).view(np.float32).reshape(*points.shape, 2)
