"""Peak signal-to-noise ratios, and the names of metrics."""

import jax.numpy as jnp
from jaxtyping import Array, Float


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
