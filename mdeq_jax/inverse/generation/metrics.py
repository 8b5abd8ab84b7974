"""Peak signal-to-noise ratios, the names of metrics, and the running means of training."""

from typing import Any

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from mdeq_jax.training.mesh import AXIS

Scale = dict[str, Float[Array, ""]]

# Share of a new value in the running means of training.
_NEW_SHARE = 0.01


def corrupted_name(name: str) -> str:
    """Return what the images are called that images of a name are restored from."""
    return name.replace("denoise", "noisy").replace("inpaint", "masked")


def metric(name: str, end: str) -> str:
    """Return the name of a metric of one kind of images, such as "psnr_denoise"."""
    return f"{name}_{end}" if end else name


def mean_squared_errors(
    images: Float[Array, "B H W C"], others: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Return the mean squared error of each image, over all its pixels."""
    return jnp.square(images - others).mean(axis=(1, 2, 3))


def psnr(error: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Return the peak signal-to-noise ratio −10 log10(error) in dB, for pixels in [0, 1].

    Args:
      error: mean squared error.
    """
    return -10 * jnp.log10(error)


def next_scale(
    scale: Scale,
    x: Float[Array, "B n"],
    images: Float[Array, "B H W C"],
    targets: Float[Array, "B H W C"],
) -> Scale:
    """Return the running means of the collection "scale" after one more training step.

    Args:
      scale: the running means: "code", the mean square of an entry of a latent code, and "error",
        the mean squared error of a pixel.
      x: latent codes.
      images: the images of the codes.
      targets: the images that they are codes of.
    """
    error = mean_squared_errors(images, targets)
    new = lax.stop_gradient({"code": jnp.square(x).mean(), "error": error.mean()})
    updated: Any = optax.incremental_update(lax.pmean(new, AXIS), scale, _NEW_SHARE)
    return updated
