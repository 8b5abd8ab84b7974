"""Correlation of all pairs of pixels of two images, and its lookup around a flow.

Source: Teed and Deng, "RAFT", ECCV 2020, arXiv 2003.12039; core/corr.py of locuslab/deq-flow.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mdeq_jax.solvers.norms import to_working_dtype

# One array (B, h, w, h // 2^i, w // 2^i) per level i.
Pyramid = tuple[Float[Array, "B h w k l"], ...]


def correlation_pyramid(
    first: Float[Array, "B h w D"], second: Float[Array, "B h w D"], levels: int
) -> Pyramid:
    """Return the correlations ⟨first[p], second[q]⟩ / √D of all pixels p and q.

    Level i averages q over squares of 2^i × 2^i pixels. A row or column that is left over is not in
    the next level.

    Args:
      first: features of the first image.
      second: features of the second image.
      levels: number of levels.

    Returns:
      The levels, the finest first, at least in float32.
    """
    first, second = to_working_dtype((first, second))
    scale = first.shape[-1] ** -0.5
    pyramid = [scale * jnp.einsum("byxd,bkld->byxkl", first, second, precision="highest")]
    for _ in range(levels - 1):
        pyramid.append(_halve(pyramid[-1]))
    return tuple(pyramid)


def _halve(level: Float[Array, "B h w k l"]) -> Float[Array, "B h w k//2 l//2"]:
    """Return the means of squares of 2×2."""
    *pixels, height, width = level.shape
    squares = level[..., : height // 2 * 2, : width // 2 * 2]
    return squares.reshape(*pixels, height // 2, 2, width // 2, 2).mean(axis=(-3, -1))


def lookup(
    pyramid: Pyramid, flow: Float[Array, "B h w 2"], radius: int
) -> Float[Array, "B h w levels*(2*radius+1)**2"]:
    """Return the correlations in a window around the place to which each pixel's flow points.

    Entry (i, m, n) of pixel (x, y) is level i, bilinearly interpolated at
    (x + flow_x, y + flow_y) / 2^i + (m, n), with m and n from −radius to radius. Levels are 0
    outside. The channels are in the order of (i, m, n), n fastest; that x comes before y is the
    order of the published weights.

    It is differentiable in pyramid and flow. The derivative by a flow that points to a whole pixel
    is the one from the right.

    Args:
      pyramid: correlations of all pairs, as `correlation_pyramid` returns them.
      flow: flow in pixels of the features, x before y; may point outside.
      radius: radius of the window.
    """
    height, width = flow.shape[1:3]
    grid = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), axis=-1)
    places = grid.astype(flow.dtype) + flow
    windows = [_window(level, places / 2**i, radius) for i, level in enumerate(pyramid)]
    return jnp.concatenate(windows, axis=-1)


def _window(
    level: Float[Array, "B h w k l"], places: Float[Array, "B h w 2"], radius: int
) -> Float[Array, "B h w window"]:
    """Return the window of each pixel in one level.

    All entries of a window have the same fractional part. So one patch of whole pixels per window
    is gathered, and four shifted parts of it are blended.
    """
    batch, height, width, *sides = level.shape
    size = 2 * radius + 2
    # With margins of the patch's size, a patch that is wholly outside has a place, too.
    padded = jnp.pad(level, ((0, 0), (0, 0), (0, 0), (size, size), (size, size)))
    corners = jnp.floor(places)
    right, down = jnp.moveaxis((places - corners).reshape(-1, 2), -1, 0)[..., None, None]
    last = jnp.array(sides[::-1], places.dtype) + size
    starts = jnp.clip(corners - radius + size, 0, last).astype(jnp.int32).reshape(-1, 2)
    cut = jax.vmap(lambda image, at: lax.dynamic_slice(image, (at[1], at[0]), (size, size)))
    patches = cut(padded.reshape(-1, *padded.shape[3:]), starts)
    rows = (1 - down) * patches[:, :-1] + down * patches[:, 1:]
    window = (1 - right) * rows[..., :-1] + right * rows[..., 1:]
    return window.swapaxes(1, 2).reshape(batch, height, width, -1)
