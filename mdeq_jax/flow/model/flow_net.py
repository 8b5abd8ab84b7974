"""DEQ-Flow as a Flax module: what is computed once, the cell, and the upsampling.

Source: Bai, Geng, Savani and Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022, arXiv
2204.08442; code.v.2.0/core/deq_flow.py of locuslab/deq-flow.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Shaped

from mdeq_jax.flow.model.cell import Attention, UpdateBlock
from mdeq_jax.flow.model.config import FACTOR, ModelConfig
from mdeq_jax.flow.model.correlation import Pyramid, correlation_pyramid, lookup
from mdeq_jax.flow.model.encoder import Encoder
from mdeq_jax.flow.model.upsampling import Mask, convex_upsample
from mdeq_jax.solvers.norms import to_working_dtype

# "hidden" (B, h, w, hidden) and "flow" (B, h, w, 2). The flow is in pixels of the features.
FlowState = dict[str, Array]


class Injection(NamedTuple):
    """What is computed once from the images.

    Attributes:
      context: features of the first image.
      pyramid: correlations of all pairs of pixels, one array (B, h, w, h // 2^i, w // 2^i) per
        level i.
      attention: weights of each pixel for all pixels; None without `config.attention`.
    """

    context: Float[Array, "B h w hidden"]
    pyramid: Pyramid
    attention: Float[Array, "B h*w h*w"] | None = None


class FlowNet(nn.Module):
    """Optical flow between two images as the equilibrium of a recurrent cell.

        x = inject(first, second),  (h, flow) = cell((h, flow), x),  upsample((h, flow))

    Height h and width w of the state are an eighth of the images' H and W. The state holds the
    flow itself, and not the places that it points to, so that a relative residual measures it.

    Attributes:
      config: the architecture.
      axis_name: mesh axis over which a training step averages BatchNorm's statistics.
      dtype: dtype in which encoders and cell compute; None is the dtype of images and parameters.
        State, correlation, attention and the result have at least 32 bits.
    """

    config: ModelConfig
    axis_name: str | None = None
    dtype: str | None = None

    def setup(self):
        """Declare the parameters."""
        config, axis_name = self.config, self.axis_name
        self.feature_encoder = Encoder(config.encoder, config.features, "instance")
        self.context_encoder = Encoder(config.encoder, config.hidden, "batch", axis_name)
        self.update = UpdateBlock(config)
        self.mask = Mask(config.mask)
        if config.attention:
            self.attention = Attention()

    def __call__(
        self,
        first: Shaped[Array, "B H W 3"],
        second: Shaped[Array, "B H W 3"],
        train: bool = False,
    ) -> Float[Array, "B H W 2"]:
        """Return the flow after one application of the cell; `init` uses every parameter."""
        x = self.inject(first, second, train)
        return self.upsample(self.cell(self.start(x), x))

    def inject(
        self,
        first: Shaped[Array, "B H W 3"],
        second: Shaped[Array, "B H W 3"],
        train: bool = False,
    ) -> Injection:
        """Return all that the cell needs of the images.

        Args:
          first: images, RGB from 0 to 255, of any real dtype.
          second: images of the same shape, to which the flow of `first` points.
          train: whether BatchNorm uses the statistics of the batch, which needs
            ``mutable=["batch_stats"]``.

        Raises:
          ValueError: the images' shapes differ, or a side is not a multiple of 8 or too small for
            the pyramid.
        """
        _check_images(first.shape, second.shape, self.config.smallest_side)
        first, second = self._normalised(first), self._normalised(second)
        features = self.feature_encoder(jnp.concatenate([first, second]), train)
        of_first, of_second = jnp.split(features, 2)
        pyramid = correlation_pyramid(of_first, of_second, self.config.levels)
        context = nn.relu(self.context_encoder(first, train))
        attention = self.attention(context) if self.config.attention else None
        return Injection(to_working_dtype(context), pyramid, attention)

    def start(self, x: Injection) -> FlowState:
        """Return the initial state, zeros."""
        hidden = jnp.zeros_like(x.context)
        return {"hidden": hidden, "flow": hidden[..., :2]}

    def cell(self, z: FlowState, x: Injection) -> FlowState:
        """Return f(z, x), in the dtypes of z."""
        flow = lax.stop_gradient(z["flow"]) if self.config.detach_flow else z["flow"]
        windows = lookup(x.pyramid, flow, self.config.radius)
        context = self._cast(x.context)
        hidden, delta = self.update(z["hidden"], context, windows, flow, x.attention)
        return {"hidden": hidden, "flow": flow + delta.astype(flow.dtype)}

    def upsample(self, z: FlowState) -> Float[Array, "B H W 2"]:
        """Return the flow of a state at the resolution of the images, in their pixels."""
        return convex_upsample(z["flow"], self.mask(self._cast(z["hidden"])))

    def _normalised(self, images: Shaped[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        dtype = images.dtype if jnp.issubdtype(images.dtype, jnp.floating) else jnp.float32
        return self._cast(2 * (images.astype(dtype) / 255) - 1)

    def _cast(self, x: Array) -> Array:
        return x if self.dtype is None else x.astype(self.dtype)


def _check_images(first: tuple[int, ...], second: tuple[int, ...], smallest: int) -> None:
    if len(first) != 4 or first[-1] != 3 or first != second:
        raise ValueError(
            f"the two images have the shapes {first} and {second}; both must be (B, H, W, 3)."
        )
    if any(side % FACTOR or side < smallest for side in first[1:3]):
        raise ValueError(
            f"the images are {first[1]}×{first[2]}; both sides must be multiples of {FACTOR} and "
            f"at least {smallest}, for the pyramid's levels. Pad them (mdeq_jax.flow.padding)."
        )
