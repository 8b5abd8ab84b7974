"""Bilinear resizing that maps corner pixels onto corner pixels."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def resize_bilinear(x: Float[Array, "B h w C"], size: tuple[int, ...]) -> Float[Array, "B H W C"]:
    """Resize images bilinearly, sample i of n at position i (m − 1) / (n − 1) among m pixels.

    This is PyTorch's ``align_corners=True``, which `jax.image.resize` does not offer.

    Args:
      x: images, of floating dtype.
      size: (H, W) of the result, each at least 1.

    Returns:
      Images in the dtype of x, computed at least in float32.
    """
    if x.shape[1:3] == size:
        return x
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    down, across = (
        jnp.asarray(_interpolation(m, n), dtype) for m, n in zip(x.shape[1:3], size, strict=True)
    )
    # Matrix products, because the gradient of a gather would be a slow, unordered scatter.
    precision = lax.Precision.HIGHEST
    y = jnp.einsum("Hh,bhwc,Ww->bHWc", down, x.astype(dtype), across, precision=precision)
    return y.astype(x.dtype)


def scaled_size(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Return the size of a scaled image: the longer side is rounded first, then the other.

    Source: `image_resize` in `lib/datasets/base_dataset.py`, locuslab/deq.

    Args:
      size: (H, W) of the image.
      scale: factor of both sides, above 0.
    """
    longest = max(size)
    scaled = int(longest * scale + 0.5)
    height, width = (max(1, int(side * scaled / longest + 0.5)) for side in size)
    return height, width


def _interpolation(m: int, n: int) -> Float[np.ndarray, "n m"]:
    """Return the weights of m pixels in each of n samples spread evenly from first to last."""
    positions = np.linspace(0, m - 1, n)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(m)))
