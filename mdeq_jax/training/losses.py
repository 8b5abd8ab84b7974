"""Losses."""

import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "B num_classes"], labels: Int[Array, " B"]
) -> Float[Array, " B"]:
    """Return −log softmax(logits)[label] of each image.

    Args:
      logits: of any floating dtype.
      labels: in [0, num_classes).
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
