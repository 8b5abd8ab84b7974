"""Deep-thinking networks: a convolutional cell, applied as often as a problem needs.

Source: Bansal et al., "End-to-end Algorithm Synthesis with Recurrent Networks", NeurIPS 2022, arXiv
2202.05826; deepthinking/models of aks2203/deep-thinking.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from mdeq_jax.layers.convolution import conv2d
from mdeq_jax.layers.modules import Conv, GroupNorm, compute_dtype, torch_init
from mdeq_jax.reasoning.model.config import ModelConfig, Norm
from mdeq_jax.reasoning.model.halting import HaltingHead
from mdeq_jax.solvers.norms import to_working_dtype

_EPSILON = 1e-5


class RecurrentNet(nn.Module):
    """A residual cell with the input recalled at every application.

        f(z, x) = block(... block(h)),  h = W_z z + x,  x = W_x inputs
        block(h) = relu(norm(W₂ relu(norm(W₁ h))) + h)

    All W are convolutions without bias, 1×3 in one dimension and 3×3 in two. In one dimension, h is
    relu(W_z z + x). Without recall, h = z. The head is three convolutions with a relu in between;
    their widths are `width`, `width // 2` and `classes` in one dimension, 32, 8 and `classes` in
    two.

    Attributes:
      config: the architecture; its kind is "recurrent".
      channels: number of channels of the inputs.
      classes: number of classes of a position.
      dimensions: 1 or 2. In one dimension, the grid has one row.
      dtype: dtype in which the convolutions compute; None is the dtype of inputs and parameters.
        The state and the logits have at least 32 bits.
    """

    config: ModelConfig
    channels: int
    classes: int
    dimensions: int
    dtype: str | None = None

    def setup(self):
        """Declare the parameters."""
        config, window = self.config, (1 if self.dimensions == 1 else 3, 3)
        if config.start == "projection":
            self.projection = Conv(config.width, window, kernel_init=torch_init)
        if config.recall:
            self.recall = Recall(config.width, self.channels, window)
        self.blocks = [
            ResidualBlock(config.width, window, config.norm, config.groups)
            for _ in range(config.blocks)
        ]
        hidden = (config.width, config.width // 2) if self.dimensions == 1 else (32, 8)
        self.head_convs = [
            Conv(width, window, kernel_init=torch_init) for width in (*hidden, self.classes)
        ]
        if config.halting:
            self.halting = HaltingHead()

    def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B H W K"]:
        """Return the logits after one application; `init` uses every parameter."""
        x = self.inject(inputs)
        z = self.cell(self.start(inputs, x), x)
        if self.config.halting:
            self.halt(z)
        return self.head(z)

    def inject(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B H W _"]:
        """Return what the cell sees of the inputs: W_x inputs, or the inputs without recall.

        Raises:
          ValueError: the inputs have other channels than the model, or more than one row in one
            dimension.
        """
        _, height, _, channels = inputs.shape
        if channels != self.channels or (self.dimensions == 1 and height != 1):
            rows = "1" if self.dimensions == 1 else "H"
            raise ValueError(
                f"inputs have the shape {inputs.shape}; this model takes (B, {rows}, W, "
                f"{self.channels})."
            )
        return self.recall.of_inputs(self._cast(inputs)) if self.config.recall else inputs

    def start(
        self, inputs: Float[Array, "B H W C"], x: Float[Array, "B H W _"]
    ) -> Float[Array, "B H W D"]:
        """Return the initial state: zeros, or relu(P inputs) with a convolution P."""
        if self.config.start == "projection":
            return to_working_dtype(nn.relu(self.projection(self._cast(inputs))))
        return to_working_dtype(jnp.zeros_like(x))

    def cell(
        self, z: Float[Array, "B H W D"], x: Float[Array, "B H W _"]
    ) -> Float[Array, "B H W D"]:
        """Return f(z, x), in the dtype of z."""
        h = self._cast(z)
        if self.config.recall:
            h = self.recall.of_state(h) + self._cast(x)
            h = nn.relu(h) if self.dimensions == 1 else h
        for block in self.blocks:
            h = block(h)
        return h.astype(z.dtype)

    def head(self, z: Float[Array, "B H W D"]) -> Float[Array, "B H W K"]:
        """Return the logits of the classes."""
        h = self._cast(z)
        for conv in self.head_convs[:-1]:
            h = nn.relu(conv(h))
        return to_working_dtype(self.head_convs[-1](h))

    def halt(self, z: Float[Array, "B H W D"]) -> Float[Array, " B"]:
        """Return for each sample the logit that its answer is right; needs `config.halting`."""
        return self.halting(z)

    def _cast(self, x: Array) -> Array:
        return x if self.dtype is None else x.astype(self.dtype)


class Recall(nn.Module):
    """A convolution of state and inputs side by side, W [z, inputs] = W_z z + W_x inputs.

    Attributes:
      width: number of channels of the state, and of the result.
      channels: number of channels of the inputs.
      window: height and width of the kernel.
    """

    width: int
    channels: int
    window: tuple[int, int]

    def setup(self):
        """Declare the kernel, whose first input channels are the state's."""
        shape = (*self.window, self.width + self.channels, self.width)
        self.kernel = self.param("kernel", torch_init, shape)

    def of_state(self, z: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        """Return W_z z."""
        return _convolve(z, self.kernel[:, :, : self.width])

    def of_inputs(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        """Return W_x inputs."""
        return _convolve(inputs, self.kernel[:, :, self.width :])


class ResidualBlock(nn.Module):
    """relu(norm(W₂ relu(norm(W₁ h))) + h).

    Attributes:
      width: number of channels.
      window: height and width of the kernels.
      norm: "none", "group" or "position", as in `ModelConfig`.
      groups: number of groups of the normalisation.
    """

    width: int
    window: tuple[int, int]
    norm: Norm
    groups: int

    @nn.compact
    def __call__(self, h: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        """Return the block's output."""
        first = Conv(self.width, self.window, kernel_init=torch_init, name="conv1")
        second = Conv(self.width, self.window, kernel_init=torch_init, name="conv2")
        return nn.relu(self._normalise(second(nn.relu(self._normalise(first(h))))) + h)

    def _normalise(self, h: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        if self.norm == "none":
            return h
        if self.norm == "group":
            return GroupNorm(self.groups, affine=False)(h)
        return position_norm(h, self.groups)


def position_norm(x: Float[Array, "*shape D"], groups: int) -> Float[Array, "*shape D"]:
    """Return (x − mean) / √(variance + 1e-5) over the channels of a group at each position.

    Args:
      x: states; mean and variance are computed at least in float32.
      groups: number of groups; divides the channels.
    """
    wide = to_working_dtype(x)
    wide = wide - _group_means(wide, groups)
    variance = _group_means(jnp.square(wide), groups)
    return (wide * lax.rsqrt(variance + _EPSILON)).astype(x.dtype)


def _group_means(x: Float[Array, "*shape D"], groups: int) -> Float[Array, "*shape D"]:
    """Return for each channel the mean over its group, at each position."""
    size = x.shape[-1] // groups
    if jax.default_backend() == "cpu":
        # XLA on CPU is slow at reductions of a few neighbouring entries.
        average = np.kron(np.eye(groups), np.full((size, size), 1 / size)).astype(x.dtype)
        return jnp.matmul(x, average, precision="highest")
    means = x.reshape(*x.shape[:-1], groups, size).mean(axis=-1)
    return jnp.repeat(means, size, axis=-1)


def _convolve(x: Array, kernel: Array) -> Array:
    return conv2d(x, kernel.astype(compute_dtype(x, kernel)))
