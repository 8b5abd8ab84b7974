"""Losses."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mdeq_jax.layers.resize import resize_bilinear
from mdeq_jax.training.losses import masked_mean
from mdeq_jax.vision.config import IGNORE, LossConfig


def pixel_cross_entropy(
    logits: Float[Array, "B h w num_classes"], labels: Int[Array, "B H W"]
) -> Float[Array, "B H W"]:
    """Return the cross-entropy of each pixel, 0 where it is ignored, at least in float32.

    Args:
      logits: logits of any floating dtype, which `resize_bilinear` brings to the labels' size.
      labels: class of each pixel, in [0, num_classes), or IGNORE.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    known = labels != IGNORE
    logits = resize_bilinear(logits, labels.shape[1:])
    classes = jnp.where(known, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    return jnp.where(known, losses, 0)


def pixel_weights(
    labels: Int[Array, "B H W"], class_weights: Sequence[float] | None
) -> Float[Array, "B H W"]:
    """Return the weight of each pixel's class, or 1 without class weights; 0 for ignored pixels."""
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
    """Return the loss of a batch of label maps, 0 if all its pixels are ignored.

    The loss is Σ w ℓ / Σ w over all pixels, with the weights w of their classes. With OHEM it is
    the plain mean of w ℓ over the hard pixels. Source: `lib/core/seg_criterion.py`, locuslab/deq.

    Args:
      logits: logits of any floating dtype, which `resize_bilinear` brings to the labels' size.
      labels: class of each pixel, in [0, num_classes), or IGNORE.
      options: the section ``loss`` of the config.
      axis_name: name of the mesh axis over whose devices the batch is split. The mean of the
        devices' losses is then the loss of the whole batch. With OHEM, each device instead chooses
        the hard pixels of its own share, and the mean is over these losses.
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
    """Return where a label's probability is below max(`threshold`, p[min(`min_kept`, n − 1)]).

    p holds the probabilities of the labels of all n pixels that are not ignored, in rising order.

    Args:
      probabilities: probability of each pixel's label, in [0, 1].
      labels: class of each pixel; IGNORE marks pixels that are never hard.
      threshold: lowest bound on the probability, in (0, 1].
      min_kept: number of pixels, at least 1; if fewer would be hard, the threshold is raised.
    """
    known = labels != IGNORE
    rising = jnp.sort(jnp.where(known, probabilities, jnp.inf), axis=None)
    last = jnp.minimum(min_kept, known.sum() - 1)
    return known & (probabilities < jnp.maximum(threshold, rising[last]))
