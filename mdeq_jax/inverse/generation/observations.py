"""What is known of images, and the inverse problems that a generator is evaluated on."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mdeq_jax.inverse.generation.prior import Prior
from mdeq_jax.training.experiment import Batch


class Observation(NamedTuple):
    """What is known of some images.

    Attributes:
      pixels: the images; pixels without noise are in [0, 1].
      visible: 1 where a pixel is known, 0 where it is hidden.
      prior: the prior of their latent codes.
    """

    pixels: Float[Array, "B H W C"]
    visible: Float[Array, "B H W 1"]
    prior: Prior


def observe(pixels: Float[Array, "B H W C"], prior: Prior) -> Observation:
    """Return the observation of images without hidden pixels.

    Args:
      pixels: the images.
      prior: the prior of their latent codes.
    """
    return Observation(pixels, jnp.ones_like(pixels[..., :1]), prior)


def inverse_problems(
    batch: Batch, levels: Sequence[float], prior: Callable[[float], Prior]
) -> dict[str, Observation]:
    """Return the problems "denoise" for each level of noise, and "inpaint".

    Args:
      batch: "image", "noise" and "visible".
      levels: standard deviations of the noise. All names but the first have theirs at the end.
      prior: maps the standard deviation of the noise to the prior of the latent codes.
    """
    image, noise, visible = (batch[name] for name in ("image", "noise", "visible"))
    names = ["denoise", *(f"denoise_{level}" for level in levels[1:])]
    problems = {
        name: observe(image + level * noise, prior(level))
        for name, level in zip(names, levels, strict=True)
    }
    return {**problems, "inpaint": Observation(image * visible, visible, prior(0.0))}
