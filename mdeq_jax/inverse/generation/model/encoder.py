"""The encoder of the variational autoencoder, which has the same generator."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mdeq_jax.inverse.generation.model.config import ModelConfig
from mdeq_jax.layers.modules import Conv, torch_bias_init, torch_init


class Encoder(nn.Module):
    """Mean and log-variance of the latent code of an image: three convolutions and a linear map.

    Attributes:
      config: the architecture.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B n"], Float[Array, "B n"]]:
        """Return mean and log-variance."""
        h, width = images, self.config.encoder_width
        for i, (features, stride) in enumerate(((width, 1), (2 * width, 2), (2 * width, 2))):
            conv = Conv(features, 3, stride, True, torch_init, torch_bias_init, name=f"conv{i}")
            h = nn.relu(conv(h))
        head = nn.Dense(2 * self.config.latent_size, kernel_init=torch_init, name="head")
        mean, log_variance = jnp.split(head(h.reshape(len(h), -1)), 2, axis=-1)
        return mean, log_variance
