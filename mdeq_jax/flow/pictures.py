"""Pictures of flow in the colours of Middlebury, and animations of pictures."""

import os
from collections.abc import Iterable

import flow_vis
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mdeq_jax.images.decoding import Pixels


def draw_flow(
    flow: Float[np.ndarray, "*T H W 2"], largest: float | None = None
) -> UInt8[np.ndarray, "*T H W 3"]:
    """Return pictures of flow: the hue is the direction, the saturation the length.

    No motion is white. A flow longer than `largest` is dark.

    Args:
      flow: flow in pixels, channel 0 to the right and channel 1 down.
      largest: the length of full saturation, in pixels; by default the largest length in `flow`, so
        that all frames of a film have the same scale.

    Returns:
      The pictures, RGB.

    Raises:
      ValueError: `largest` is not above 0.

    Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011.

    Examples:
      >>> draw_flow(np.zeros((1, 1, 2)))
      array([[[255, 255, 255]]], dtype=uint8)
    """
    if largest is None:
        largest = float(np.linalg.norm(flow, axis=-1).max(initial=0)) or 1.0
    if not largest > 0:
        raise ValueError(f"largest is {largest!r}; it must be a number above 0.")
    # Rounding must not make the longest flow longer than `largest`.
    scaled = flow / (largest * (1 + 1e-6))
    # The wheel takes one image: all rows of all frames under one another.
    rows = scaled.reshape(-1, *scaled.shape[-2:])
    return flow_vis.flow_uv_to_colors(*np.moveaxis(rows, -1, 0)).reshape(*flow.shape[:-1], 3)


def save_animation(
    path: str | os.PathLike[str], pictures: Iterable[Pixels], frames_per_s: float = 10.0
) -> None:
    """Write pictures of one size as an animated GIF file that starts again at its end.

    Args:
      path: the file to write, with the suffix .gif.
      pictures: at least one picture, RGB.
      frames_per_s: how many pictures are shown in a second, above 0 and at most 100.

    Raises:
      ValueError: an argument is out of range, or the pictures differ in size.
    """
    if not os.fspath(path).lower().endswith(".gif"):
        raise ValueError(f"{os.fspath(path)} is no GIF file; let its name end in .gif.")
    if not 0 < frames_per_s <= 100:
        raise ValueError(f"frames_per_s is {frames_per_s!r}; it must be a number in (0, 100].")
    frames = [Image.fromarray(picture) for picture in pictures]
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) != 1:
        found = ", ".join(f"{width}×{height}" for width, height in sizes) or "none"
        raise ValueError(f"an animation needs pictures of one size; found {found}.")
    duration = 1000 / frames_per_s
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)
