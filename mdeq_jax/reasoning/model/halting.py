"""The halting head, which says whether the answer in a state is right."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class HaltingHead(nn.Module):
    """A linear map of the state's mean over the positions.

    It starts at −5 for every state, so that an untrained model does not halt. Source: models/eqr.py
    of locuslab/EqR, which maps the state at the first position instead of the mean.
    """

    @nn.compact
    def __call__(self, z: Float[Array, "B H W D"]) -> Float[Array, " B"]:
        """Return for each sample the logit that its answer is right, at least in float32."""
        mean = z.astype(jnp.promote_types(z.dtype, jnp.float32)).mean(axis=(1, 2))
        linear = nn.Dense(
            1,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(-5.0),
            name="linear",
        )
        return linear(mean)[:, 0]
