"""Losses."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mdeq_jax.training.losses import masked_mean
from mdeq_jax.vision.config import IGNORE, LossConfig
from mdeq_jax.vision.model.resize import resize_bilinear


def cross_entropy(
    logits: Float[Array, "*B num_classes"], labels: Int[Array, "*B"]
) -> Float[Array, "*B"]:
    """Return −log softmax(logits)[label] of each image, or pixel.

    Args:
      logits: of any floating dtype.
      labels: in [0, num_classes).
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def pixel_cross_entropy(
    logits: Float[Array, "B h w num_classes"], labels: Int[Array, "B H W"]
) -> Float[Array, "B H W"]:
    """Return the cross-entropy of each pixel, 0 where it is ignored, at least in float32.

    Args:
      logits: of any floating dtype; resized as by `resize_bilinear` to the labels' size.
      labels: in [0, num_classes), or IGNORE.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    known = labels != IGNORE
    logits = resize_bilinear(logits, labels.shape[1:])
    return jnp.where(known, cross_entropy(logits, jnp.where(known, labels, 0)), 0)


def pixel_weights(
    labels: Int[Array, "B H W"], class_weights: Sequence[float] | None
) -> Float[Array, "B H W"]:
    """Return the weight of each pixel's class, 1 without class weights; 0 where it is ignored."""
    known = labels != IGNORE
    if class_weights is None:
        return known.astype(jnp.float32)
    return jnp.where(known, jnp.asarray(class_weights)[jnp.where(known, labels, 0)], 0)


def segmentation_loss(
    logits: Float[Array, "B h w num_classes"],
    labels: Int[Array, "B H W"],
    options: LossConfig,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the loss of a batch of label maps, 0 where none of its pixels counts.

    It is Σ w ℓ / Σ w over all pixels, with the weights w of their classes; or with OHEM the plain
    mean of w ℓ over the hard ones. Source: `lib/core/seg_criterion.py`, locuslab/deq.

    Args:
      logits: as of `pixel_cross_entropy`.
      labels: likewise.
      options: the section of the config.
      axis_name: of the mesh axis over whose devices the batch is split. The mean over them is then
        the loss of the whole batch, but with OHEM, which each device does on its own share.
    """
    losses = pixel_cross_entropy(logits, labels)
    weights = pixel_weights(labels, options.class_weights)
    if options.ohem:
        probabilities = jnp.exp(-lax.stop_gradient(losses))
        hard = hard_pixels(probabilities, labels, options.ohem_threshold, options.ohem_min_kept)
        return masked_mean(weights * losses, hard)
    return masked_mean(losses, weights, axis_name)


def hard_pixels(
    probabilities: Float[Array, "B H W"],
    labels: Int[Array, "B H W"],
    threshold: float,
    min_kept: int,
) -> Bool[Array, "B H W"]:
    """Return where a label's probability is below max(threshold, that of the min_kept-th hardest).

    The hardest counts as the 0-th, and the easiest takes the place of one beyond it.

    Args:
      probabilities: of the labels, in [0, 1].
      labels: only where they are IGNORE matters.
      threshold: in (0, 1].
      min_kept: at least 1.
    """
    known = labels != IGNORE
    rising = jnp.sort(jnp.where(known, probabilities, jnp.inf), axis=None)
    last = jnp.minimum(min_kept, known.sum() - 1)
    return known & (probabilities < jnp.maximum(threshold, rising[last]))
