"""The cell of DEQ-Flow: motion features, a convolutional GRU and the flow head.

Source: code.v.2.0/core/update.py and gma.py of locuslab/deq-flow.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.layers.modules import Conv, torch_bias_init, torch_init
from mdeq_jax.solvers.norms import to_working_dtype


class UpdateBlock(nn.Module):
    """One update of the hidden state, and the flow's increment.

        m = motion(correlation, flow),  h' = GRU(h, [context, m]),  Δ = W₂ relu(W₁ h')

    With attention the GRU also sees the aggregated m.

    Attributes:
      config: the architecture.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B h w hidden"],
        context: Float[Array, "B h w hidden"],
        correlation: Float[Array, "B h w windows"],
        flow: Float[Array, "B h w 2"],
        attention: Float[Array, "B h*w h*w"] | None = None,
    ) -> tuple[Float[Array, "B h w hidden"], Float[Array, "B h w 2"]]:
        """Return the new hidden state in the dtype of `hidden`, and the flow's increment.

        Args:
          hidden: the hidden state.
          context: features of the first image. The convolutions compute in their dtype.
          correlation: windows of the correlation pyramid around the flow.
          flow: the flow.
          attention: weights of the aggregation; None without `config.attention`.
        """
        dtype, head = context.dtype, self.config.head
        motion = MotionEncoder(self.config, name="motion")(
            correlation.astype(dtype), flow.astype(dtype)
        )
        inputs = [context, motion]
        if attention is not None:
            inputs.append(Aggregate(name="aggregate")(motion, attention.astype(dtype)))
        hidden = SeparableGRU(name="gru")(hidden, jnp.concatenate(inputs, axis=-1))
        inner = nn.relu(cell_conv(head, 3, "head_conv1")(hidden.astype(dtype)))
        return hidden, to_working_dtype(cell_conv(2, 3, "head_conv2")(inner))


class MotionEncoder(nn.Module):
    """Features of correlation and flow, with the flow itself as the last two channels.

    Attributes:
      config: the architecture.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, correlation: Float[Array, "B h w windows"], flow: Float[Array, "B h w 2"]
    ) -> Float[Array, "B h w motion"]:
        """Return the motion features."""
        config, c, f = self.config, correlation, flow
        for i, (width, size) in enumerate(zip(config.correlation, (1, 3), strict=True), 1):
            c = nn.relu(cell_conv(width, size, f"correlation{i}")(c))
        for i, (width, size) in enumerate(zip(config.flow, (7, 3), strict=True), 1):
            f = nn.relu(cell_conv(width, size, f"flow{i}")(f))
        both = jnp.concatenate([c, f], axis=-1)
        motion = nn.relu(cell_conv(config.motion - 2, 3, "joint")(both))
        return jnp.concatenate([motion, flow], axis=-1)


class SeparableGRU(nn.Module):
    """A gated recurrent unit with 1×5 convolutions, and a second one with 5×1.

    z = σ(W_z [h, x]),  r = σ(W_r [h, x]),  q = tanh(W_q [r h, x]),  h ← (1 − z) h + z q
    """

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B h w hidden"], x: Float[Array, "B h w _"]
    ) -> Float[Array, "B h w hidden"]:
        """Return the new hidden state in the dtype of `hidden`; convolutions have x's dtype."""
        width = hidden.shape[-1]
        for i, window in enumerate(((1, 5), (5, 1)), 1):

            def gate(name: str, h: Array, i: int = i, window: tuple[int, int] = window) -> Array:
                inputs = jnp.concatenate([h.astype(x.dtype), x], axis=-1)
                return cell_conv(width, window, f"{name}{i}")(inputs)

            update, reset = nn.sigmoid(gate("update", hidden)), nn.sigmoid(gate("reset", hidden))
            candidate = jnp.tanh(gate("candidate", reset * hidden))
            hidden = ((1 - update) * hidden + update * candidate).astype(hidden.dtype)
        return hidden


class Attention(nn.Module):
    """Weights softmax(⟨q_i, k_j⟩ / √D) of each pixel i for all pixels j, with q, k = W context.

    Source: Jiang et al., "Learning to Estimate Hidden Motions with Global Motion Aggregation",
    ICCV 2021, arXiv 2104.02409.
    """

    @nn.compact
    def __call__(self, context: Float[Array, "B h w D"]) -> Float[Array, "B h*w h*w"]:
        """Return the weights, at least in float32; each row sums to 1."""
        batch, height, width, channels = context.shape
        both = Conv(2 * channels, 1, kernel_init=torch_init, name="query_key")(context)
        both = to_working_dtype(both.reshape(batch, height * width, 2 * channels))
        query, key = jnp.split(both, 2, axis=-1)
        products = jnp.einsum("bid,bjd->bij", query, key) * channels**-0.5
        return jax.nn.softmax(products, axis=-1)


class Aggregate(nn.Module):
    """m + γ A W m, with the weights A of `Attention`; γ starts at 0."""

    @nn.compact
    def __call__(
        self, motion: Float[Array, "B h w C"], attention: Float[Array, "B h*w h*w"]
    ) -> Float[Array, "B h w C"]:
        """Return the aggregated motion features."""
        value = Conv(motion.shape[-1], 1, kernel_init=torch_init, name="value")(motion)
        gamma = self.param("gamma", nn.initializers.zeros, (1,)).astype(motion.dtype)
        flat = value.reshape(len(value), -1, value.shape[-1])
        return motion + gamma * (attention @ flat).reshape(motion.shape)


def cell_conv(features: int, size: int | tuple[int, int], name: str) -> Conv:
    """Return a convolution with bias, initialised as PyTorch does by default."""
    return Conv(features, size, 1, True, torch_init, torch_bias_init, name=name)
