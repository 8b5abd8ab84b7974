"""Variational dropout of the cell: one mask for each image and block, constant during a solve."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from mdeq_jax.layers.multiscale import Masks
from mdeq_jax.vision.model.config import ModelConfig


def dropout_masks(
    key: PRNGKeyArray,
    config: ModelConfig,
    batch: int,
    dtype: jnp.dtype,
    axis_name: str | None = None,
) -> Masks:
    """Draw the masks of variational dropout, one (batch, 1, 1, C) for each residual block.

    An entry is 1 / (1 − p) with probability 1 − p and otherwise 0, with p = config.dropout.

    Args:
      key: the random key, the same on all devices.
      config: the architecture.
      batch: number of images, on one device.
      dtype: dtype of the masks.
      axis_name: mesh axis over which the images are split. Each device draws the masks of all
        images and keeps its own, so that an image's masks do not depend on the number of devices.
    """
    keep = 1 - config.dropout
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    first = 0 if axis_name is None else lax.axis_index(axis_name) * batch

    def draw(key: PRNGKeyArray, channels: int) -> Array:
        kept = jax.random.bernoulli(key, keep, (devices * batch, 1, 1, channels))
        return lax.dynamic_slice_in_dim(kept, first, batch).astype(dtype) / keep

    return tuple(
        tuple(draw(k, channels) for k in jax.random.split(jax.random.fold_in(key, i), blocks))
        for i, (channels, blocks) in enumerate(
            zip(config.branch_channels, config.blocks_per_branch, strict=True)
        )
    )
