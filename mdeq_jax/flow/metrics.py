"""The loss of a predicted flow, and its errors by the conventions of Sintel and of KITTI."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

# Errors below these many pixels are counted.
_NEAR = (1, 3, 5)


def flow_loss(
    predicted: Float[Array, "B H W 2"],
    flow: Float[Array, "B H W 2"],
    valid: Bool[Array, "B H W"],
    largest: float = 400.0,
) -> Float[Array, ""]:
    """Return the mean absolute error of the components of a flow.

        1/(2BHW) Σ w |predicted − flow|,   w = valid and ‖flow‖ < largest

    Pixels with w = 0 count as errors of 0: the mean is over all pixels. The mean of the losses of
    parts of equal size is therefore the loss of the whole batch.

    Args:
      predicted: the prediction, in pixels; any floating dtype.
      flow: the truth, in pixels; any finite value where it is not valid.
      valid: whether the truth is known.
      largest: truths of at least this many pixels do not count.

    Returns:
      The loss, at least in float32.

    Source: Teed and Deng, "RAFT", ECCV 2020, equation 7, for one of its predictions.
    """
    counts = valid & (_length(flow) < largest)
    return jnp.where(counts[..., None], jnp.abs(_difference(predicted, flow)), 0).mean()


def flow_errors(
    predicted: Float[Array, "B H W 2"],
    flow: Float[Array, "B H W 2"],
    valid: Bool[Array, "B H W"],
) -> dict[str, Shaped[Array, " B"]]:
    """Return the errors of each prediction as sums, which add up over predictions and batches.

    The error of a pixel is ‖predicted − flow‖.

    Args:
      predicted: the prediction, in pixels; any floating dtype.
      flow: the truth, in pixels; any finite value where it is not valid.
      valid: whether the truth is known.

    Returns:
      By name, over the valid pixels of each sample:
        error: the sum of the errors.
        pixels: the number of valid pixels.
        near_1, near_3, near_5: the number of errors below 1, 3 and 5 pixels.
        outliers: the number of errors above both 3 pixels and 5 % of ‖flow‖.
        image_error: the mean error; 0 without valid pixels.
        images: 1, or 0 without valid pixels.
    """
    error = jnp.where(valid, _length(_difference(predicted, flow)), 0)
    outlier = (error > 3) & (error > 0.05 * _length(flow))

    def count(pixels: Bool[Array, "B H W"]) -> Array:
        return (pixels & valid).sum(axis=(1, 2))

    total, pixels = error.sum(axis=(1, 2)), count(valid)
    return {
        "error": total,
        "pixels": pixels,
        **{f"near_{limit}": count(error < limit) for limit in _NEAR},
        "outliers": count(outlier),
        "image_error": total / jnp.maximum(pixels, 1),
        "images": (pixels > 0).astype(pixels.dtype),
    }


def summarize_errors(sums: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a data set from the sums of its `flow_errors`.

    Args:
      sums: the sums over all samples by name; other names are ignored.

    Returns:
      By name, NaN if no pixel is valid:
        epe: the mean error over all valid pixels, as Sintel reports it.
        epe_per_image: the mean over images of the mean error over their valid pixels, as KITTI
          reports it. An image without valid pixels is left out.
        f1_all: the outliers, in per cent of all valid pixels.
        1px, 3px, 5px: the share of valid pixels with an error below 1, 3 and 5 pixels.
    """

    def ratio(part: str, whole: str) -> float:
        return float(sums[part]) / float(sums[whole]) if sums[whole] else float("nan")

    return {
        "epe": ratio("error", "pixels"),
        "epe_per_image": ratio("image_error", "images"),
        "f1_all": 100 * ratio("outliers", "pixels"),
        **{f"{limit}px": ratio(f"near_{limit}", "pixels") for limit in _NEAR},
    }


def _difference(predicted: Array, flow: Array) -> Array:
    """Return predicted − flow, at least in float32."""
    dtype = jnp.promote_types(jnp.result_type(predicted, flow), jnp.float32)
    return predicted.astype(dtype) - flow.astype(dtype)


def _length(flow: Float[Array, "*s 2"]) -> Float[Array, "*s"]:
    return jnp.sqrt(jnp.square(flow).sum(axis=-1))
