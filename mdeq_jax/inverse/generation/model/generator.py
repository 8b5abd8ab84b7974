"""The generator h(z*), z* = f(z*, x): an image from the equilibrium at a latent code x.

    x (B, n) → one linear map per branch → injections → z = cell(z, injections) → image

Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021; `MDEQJIIOVAECore` in `lib/models/mdeq_core.py`, locuslab/JIIO-DEQ.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.inverse.generation.model.config import ModelConfig
from mdeq_jax.layers.modules import Conv, GroupNorm, torch_bias_init, torch_init
from mdeq_jax.layers.multiscale import MDEQCell, State, init_cell
from mdeq_jax.layers.resize import resize_bilinear


class Generator(nn.Module):
    """The parts of the generator, as methods for `model.apply`.

    Attributes:
      config: the architecture.
      size: height and width of the images, multiples of `config.size_divisor`.
      channels: number of channels of the images.
    """

    config: ModelConfig
    size: tuple[int, int]
    channels: int

    def __post_init__(self) -> None:
        """Raise ValueError if the sides are no multiples of `config.size_divisor`."""
        super().__post_init__()
        divisor = self.config.size_divisor
        if any(side % divisor for side in self.size):
            raise ValueError(
                f"images of {self.size[0]}×{self.size[1]} do not fit config.model, which halves "
                f"them; use multiples of {divisor}, fewer branches, or less upsampling."
            )

    @property
    def state_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Height, width and channels of each branch of the state."""
        times = self.config.upsampling or 0
        return tuple(
            (self.size[0] >> (times + i), self.size[1] >> (times + i), channels)
            for i, channels in enumerate(self.config.branch_channels)
        )

    def setup(self) -> None:
        """Name the parts."""
        self.update = MDEQCell(self.config)
        bias_init = torch_bias_init(self.config.latent_size)
        self.latent_maps = [
            nn.DenseGeneral(shape, kernel_init=torch_init, bias_init=bias_init)
            for shape in self.state_shapes
        ]
        self.merge = Merge(self.config, self.channels)

    def __call__(self, x: Float[Array, "B n"]) -> Float[Array, "B H W C"]:
        """Return the images after one application of the cell, which uses every parameter."""
        return self.image(self.cell(self.start(x), x))

    def inject(self, x: Float[Array, "B n"]) -> State:
        """Return the injection of a latent code into each branch."""
        return tuple(latent_map(x) for latent_map in self.latent_maps)

    def start(self, x: Float[Array, "B n"]) -> State:
        """Return the state 0 for latent codes."""
        return tuple(jnp.zeros((len(x), *shape), x.dtype) for shape in self.state_shapes)

    def cell(self, z: State, x: Float[Array, "B n"]) -> State:
        """Return f(z, x)."""
        highest, *lower = self.inject(x)
        return self.update(z, highest, lower=tuple(lower))

    def image(self, z: State) -> Float[Array, "B H W C"]:
        """Return the images h(z), with pixels in [0, 1]."""
        return self.merge(z)


class Merge(nn.Module):
    """h(z): all branches at the highest resolution, two convolutions, and upsampling if configured.

    Attributes:
      config: the architecture.
      channels: number of channels of the images.
    """

    config: ModelConfig
    channels: int

    @nn.compact
    def __call__(self, z: State) -> Float[Array, "B H W C"]:
        """Return the images of a state."""
        config, size = self.config, z[0].shape[1:3]
        h = jnp.concatenate([resize_bilinear(branch, size) for branch in z], axis=-1)
        h = _biased(h.shape[-1], 1, "conv1")(h)
        h = nn.relu(GroupNorm(config.num_groups, name="norm")(h))
        if config.upsampling is None:
            h = _biased(self.channels, 3, "conv2")(h)
        else:
            width = config.branch_channels[0]
            h = _biased(width, 3, "conv2")(h)
            # The last transposed convolution is the first to double the sides.
            for i, (features, least) in enumerate(((width, 2), (self.channels, 1))):
                h = nn.relu(GroupNorm(config.num_groups // 2, name=f"upsample_norm{i}")(h))
                stride = 2 if config.upsampling >= least else 1
                h = TransposedConv(features, stride, name=f"upsample_conv{i}")(h)
        return nn.sigmoid(h) if config.output == "sigmoid" else (jnp.tanh(h) + 1) / 2


def _biased(features: int, size: int, name: str) -> Conv:
    """Return a convolution with a bias, initialised as in PyTorch."""
    init = {"kernel_init": torch_init, "bias_init": torch_bias_init}
    return Conv(features, size, use_bias=True, name=name, **init)


class TransposedConv(nn.Module):
    """A 3×3 transposed convolution without bias, which multiplies the sides by its stride.

    It is the convolution of the image with stride − 1 zeros after each row and column.

    Attributes:
      features: number of output channels.
      stride: 1 or 2.
    """

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B H' W' O"]:
        """Return the transposed convolution of x."""
        spread = [(0, self.stride - 1, self.stride - 1)] * 2
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
        return Conv(self.features, kernel_init=torch_init, name="conv")(x)


def init_params(model: Generator, key: PRNGKeyArray) -> dict[str, PyTree]:
    """Return random parameters, float32; weight-normed kernels as direction and length.

    Args:
      model: the generator.
      key: the random key.

    Returns:
      The parameters. Give them to `weight_norm.merge` before `model.apply`.
    """
    codes = jax.ShapeDtypeStruct((1, model.config.latent_size), jnp.float32)
    params: Any = model.lazy_init(key, codes)["params"]
    return {**params, "update": init_cell(jax.random.fold_in(key, 0), model.config)}
