"""The normal prior of latent codes, and the statistics of training that it is fitted to."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from mdeq_jax.inverse.generation.metrics import mean_squared_errors
from mdeq_jax.training.mesh import AXIS

Statistics = dict[str, Float[Array, "..."]]

# Share of a new value in the running means of training.
_NEW_SHARE = 0.01


class Prior(NamedTuple):
    """A prior of latent codes, whose cost is (x − mean)ᵀ precision (x − mean).

    Attributes:
      mean: the code of the lowest cost, at which the optimisation starts.
      precision: a symmetric matrix without negative eigenvalues.
    """

    mean: Float[Array, " n"]
    precision: Float[Array, "n n"]

    def cost(self, x: Float[Array, "B n"]) -> Float[Array, " B"]:
        """Return the cost of each latent code."""
        away = x - self.mean
        return ((away @ self.precision) * away).sum(axis=-1)


def isotropic_prior(weight: float, size: int) -> Prior:
    """Return the prior whose cost is weight · ‖x‖².

    Args:
      weight: the weight, at least 0.
      size: number of entries of a latent code.
    """
    return Prior(jnp.zeros(size), weight * jnp.eye(size))


def fitted_prior(statistics: Statistics, noise: float, x_step: float) -> Prior:
    """Return the prior of the codes of corrupted images.

        precision = w (Σ + w x_step I)⁻¹,  w = noise² + error

    With it the best code is the most probable one, if the codes of training are normal with the
    covariance Σ, and the errors of pixels normal with the variance w. The second term bounds the
    precision by 1 / x_step, so that gradient descent with that step size is stable although some
    directions of the codes are unused.

    Args:
      statistics: the statistics of training.
      noise: standard deviation of the noise in the pixels, at least 0.
      x_step: step size of gradient descent on the codes, above 0.
    """
    weight, covariance = noise**2 + statistics["error"], statistics["covariance"]
    floor = weight * x_step * jnp.eye(len(covariance), dtype=covariance.dtype)
    return Prior(statistics["mean"], weight * jnp.linalg.inv(covariance + floor))


def initial_statistics(size: int) -> Statistics:
    """Return the statistics before training.

    Args:
      size: number of entries of a latent code.
    """
    return {"mean": jnp.zeros(size), "covariance": jnp.eye(size), "error": jnp.zeros(())}


def next_statistics(
    statistics: Statistics,
    x: Float[Array, "B n"],
    images: Float[Array, "B H W C"],
    targets: Float[Array, "B H W C"],
) -> Statistics:
    """Return the statistics after one more training step.

    Args:
      statistics: running means: "mean" (n,) and "covariance" (n, n) of the latent codes, and
        "error" (), the mean squared error of a pixel.
      x: latent codes.
      images: the images of the codes.
      targets: the images that they are codes of.
    """
    away = x - statistics["mean"]
    new = {
        "mean": x.mean(axis=0),
        "covariance": away.T @ away / len(x),
        "error": mean_squared_errors(images, targets).mean(),
    }
    new = lax.pmean(lax.stop_gradient(new), AXIS)
    updated: Any = optax.incremental_update(new, statistics, _NEW_SHARE)
    return updated
