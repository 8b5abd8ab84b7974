"""Regression losses, and the masked mean that all losses over several devices share."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def masked_mean(
    values: Float[Array, "*B"], mask: Array, axis_name: str | None = None
) -> Float[Array, ""]:
    """Return the mean of the valid values, Σ w v / Σ w with the mask w, or 0 if w is 0 everywhere.

    Args:
      values: v, an array of any floating dtype. An invalid value must be finite too.
      mask: w, whose shape broadcasts to that of `values`: True where a value is valid, or a weight
        of at least 0.
      axis_name: name of the mesh axis over whose devices `values` and `mask` are split. Each device
        then returns its part; the mean of the parts over the devices is the mean of all values.
    """
    weights = jnp.broadcast_to(mask, values.shape)
    total = weights.sum()
    if axis_name is not None:
        total = lax.pmean(total, axis_name)
    return (weights * values).sum() / jnp.where(total > 0, total, 1)


def l1_loss(
    prediction: Float[Array, "*B"],
    target: Float[Array, "*B"],
    mask: Bool[Array, "*#B"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the mean absolute error, mean |prediction − target|, at least in float32.

    Args:
      prediction: array of any floating dtype.
      target: array of any floating dtype; may be NaN where the mask is False.
      mask: True where the target is valid; its shape broadcasts to that of `target`. None means
        everywhere. The loss is 0 if the mask is False everywhere.
      axis_name: name of the mesh axis over which the arrays are split: each device then returns its
        part, and the mean of the parts is the loss.
    """
    return _mean_of(jnp.abs, prediction, target, mask, axis_name)


def l2_loss(
    prediction: Float[Array, "*B"],
    target: Float[Array, "*B"],
    mask: Bool[Array, "*#B"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the mean squared error, mean (prediction − target)², at least in float32.

    Args:
      prediction: array of any floating dtype.
      target: array of any floating dtype; may be NaN where the mask is False.
      mask: True where the target is valid; its shape broadcasts to that of `target`. None means
        everywhere. The loss is 0 if the mask is False everywhere.
      axis_name: name of the mesh axis over which the arrays are split: each device then returns its
        part, and the mean of the parts is the loss.
    """
    return _mean_of(jnp.square, prediction, target, mask, axis_name)


def _mean_of(
    per_value: Callable[[Array], Array],
    prediction: Float[Array, "*B"],
    target: Float[Array, "*B"],
    mask: Bool[Array, "*#B"] | None,
    axis_name: str | None,
) -> Float[Array, ""]:
    """Return the masked mean of a function of prediction − target."""
    dtype = jnp.promote_types(jnp.result_type(prediction, target), jnp.float32)
    valid = jnp.ones((), bool) if mask is None else mask
    # Masked before the function, so that NaN reaches neither the mean nor its gradient.
    error = jnp.where(valid, prediction.astype(dtype) - target.astype(dtype), 0)
    return masked_mean(per_value(error), valid, axis_name)
