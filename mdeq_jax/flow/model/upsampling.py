"""Upsampling of a flow by 8, with weights that the hidden state predicts.

Source: `_upsample_flow` in code.v.2.0/core/deq_flow.py of locuslab/deq-flow.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mdeq_jax.flow.model.cell import cell_conv
from mdeq_jax.flow.model.config import FACTOR
from mdeq_jax.solvers.norms import to_working_dtype

_NEIGHBOURS = 9


class Mask(nn.Module):
    """The logits of the upsampling's weights, W₂ relu(W₁ h) / 4.

    Attributes:
      width: number of channels between the two convolutions.
    """

    width: int

    @nn.compact
    def __call__(self, hidden: Float[Array, "B h w D"]) -> Float[Array, "B h w 576"]:
        """Return for each pixel 9 × 8 × 8 logits, at least in float32."""
        h = nn.relu(cell_conv(self.width, 3, "conv1")(hidden))
        return to_working_dtype(cell_conv(_NEIGHBOURS * FACTOR**2, 1, "conv2")(h)) / 4


def convex_upsample(
    flow: Float[Array, "B h w 2"], mask: Float[Array, "B h w 576"]
) -> Float[Array, "B 8*h 8*w 2"]:
    """Return a flow at 8 times the height and width, in pixels of the larger image.

    Each pixel is 8 times a convex combination of the 3×3 neighbours in the small flow, which is 0
    outside.

    Args:
      flow: flow in pixels of the small image.
      mask: logits of the weights, in the order (neighbour, row, column): the softmax is over the
        9 neighbours; row and column, 0 to 7, are the place inside the enlarged pixel.
    """
    batch, height, width, _ = flow.shape
    weights = mask.reshape(batch, height, width, _NEIGHBOURS, FACTOR, FACTOR)
    weights = jax.nn.softmax(weights, axis=3)
    padded = jnp.pad(FACTOR * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    fine = jnp.einsum("byxkij,kbyxc->byixjc", weights, jnp.stack(neighbours), precision="highest")
    return fine.reshape(batch, FACTOR * height, FACTOR * width, 2)
