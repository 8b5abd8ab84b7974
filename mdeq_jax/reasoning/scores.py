"""How right the answers to problems are."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from mdeq_jax.training.experiment import Batch


def problem_scores(outputs: PyTree, batch: Batch) -> dict[str, Float[Array, " B"]]:
    """Return the scores of each problem by name, each in [0, 1].

    exact is 1 where every counted position is right. accuracy is the share of counted positions
    that are right. halting_accuracy is 1 where the halting head says whether the answer is exact;
    a model without a halting head does not have it.

    Args:
      outputs: "logits" (B, H, W, classes), and "halt" (B,) if there is a halting head.
      batch: "targets", classes (B, H, W), and "counted", bool (B, H, W).
    """
    counted = batch["counted"]
    right = outputs["logits"].argmax(axis=-1) == batch["targets"]
    exact = (right | ~counted).all(axis=(1, 2))
    scores = {
        "exact": exact.astype(jnp.float32),
        "accuracy": mean_over_positions(right.astype(jnp.float32), counted),
    }
    if "halt" in outputs:
        scores["halting_accuracy"] = ((outputs["halt"] > 0) == exact).astype(jnp.float32)
    return scores


def mean_over_positions(
    values: Float[Array, "B H W"], counted: Bool[Array, "B H W"]
) -> Float[Array, " B"]:
    """Return the mean of each problem's values over its counted positions; 0 if there are none."""
    total = jnp.where(counted, values, 0).sum(axis=(1, 2))
    return total / jnp.maximum(counted.sum(axis=(1, 2)), 1)
