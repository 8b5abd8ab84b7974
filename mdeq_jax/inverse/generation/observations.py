"""What is known of images, and the inverse problems that a generator is evaluated on."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mdeq_jax.inverse.generation.metrics import Scale
from mdeq_jax.training.experiment import Batch


class Observation(NamedTuple):
    """What is known of some images.

    Attributes:
      pixels: the images; pixels without noise are in [0, 1].
      visible: 1 where a pixel is known, 0 where it is hidden.
      prior: weight of ‖x‖² in the cost of a latent code x, at least 0.
    """

    pixels: Float[Array, "B H W C"]
    visible: Float[Array, "B H W 1"]
    prior: Float[Array, " B"]


def observe_clean(pixels: Float[Array, "B H W C"], prior: float) -> Observation:
    """Return the observation of whole images without noise.

    Args:
      pixels: the images.
      prior: weight of ‖x‖², that of training.
    """
    return Observation(pixels, jnp.ones_like(pixels[..., :1]), jnp.full_like(_rows(pixels), prior))


def observe_corrupted(
    pixels: Float[Array, "B H W C"],
    visible: Float[Array, "B H W 1"] | None,
    noise: float,
    prior: float,
    scale: Scale,
) -> Observation:
    """Return the observation of corrupted images.

    The best code is the most probable one, if codes and errors of the generator are normal with the
    variances of training.

    Args:
      pixels: what is seen of the images.
      visible: 1 where a pixel is known, 0 where it is hidden; None hides no pixel.
      noise: standard deviation of the noise in the pixels, at least 0.
      prior: weight of ‖x‖² in training.
      scale: running means of training.
    """
    weight = prior + (noise**2 + scale["error"]) / scale["code"]
    visible = jnp.ones_like(pixels[..., :1]) if visible is None else visible
    return Observation(pixels, visible, weight + jnp.zeros_like(_rows(pixels)))


def inverse_problems(
    batch: Batch, levels: Sequence[float], prior: float, scale: Scale
) -> dict[str, Observation]:
    """Return the problems "denoise" for each level of noise, and "inpaint".

    Args:
      batch: "image", "noise" and "visible".
      levels: standard deviations of the noise. All names but the first have theirs at the end.
      prior: weight of ‖x‖² in training.
      scale: running means of training.
    """
    image, noise, visible = (batch[name] for name in ("image", "noise", "visible"))
    names = ["denoise", *(f"denoise_{level}" for level in levels[1:])]
    problems = {
        name: observe_corrupted(image + level * noise, None, level, prior, scale)
        for name, level in zip(names, levels, strict=True)
    }
    inpaint = observe_corrupted(image * visible, visible, 0.0, prior, scale)
    return {**problems, "inpaint": inpaint}


def _rows(pixels: Float[Array, "B H W C"]) -> Float[Array, " B"]:
    """Return one number of each image, for its shape and dtype."""
    return pixels[:, 0, 0, 0]
