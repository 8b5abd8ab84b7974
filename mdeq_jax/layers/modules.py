"""Flax modules: convolution and GroupNorm, alone and together."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from mdeq_jax.layers.convolution import conv2d

_EPSILON = 1e-5

# N(0, 0.01²), as the originals initialise convolutions.
normal_init = nn.initializers.normal(0.01)
# PyTorch's default for convolutions and linear maps, uniform in ±1/√fan_in.
torch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def normal_bias_init(fan_in: int) -> Initializer:
    """Return the initialiser N(0, 0.01²), whatever the fan-in."""
    return normal_init


def torch_bias_init(fan_in: int) -> Initializer:
    """Return PyTorch's default initialiser of biases, uniform in ±1/√fan_in.

    Args:
      fan_in: number of inputs of each output: height × width × input channels of the kernel.
    """
    bound = fan_in**-0.5

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def compute_dtype(x: Array, *parameters: Array) -> jnp.dtype:
    """Return the dtype that a layer computes in.

    If x has 16 bits, it is the dtype of x: parameters stay in float32 and are rounded where they
    are used. Otherwise it is the promoted dtype of x and the parameters.
    """
    return x.dtype if x.dtype.itemsize == 2 else jnp.result_type(x, *parameters)


class Conv(nn.Module):
    """`conv2d` with its parameters: kernel, and a bias if asked for.

    Attributes:
      features: number of output channels.
      size: the kernel's height and width, or its side if they are equal; odd.
      stride: stride along height and width, at least 1.
      use_bias: whether there is a bias.
      kernel_init: initialiser of the kernel.
      bias_init: returns the initialiser of the bias for a fan-in, N(0, 0.01²) by default.
    """

    features: int
    size: int | tuple[int, int] = 3
    stride: int = 1
    use_bias: bool = False
    kernel_init: Initializer = normal_init
    bias_init: Callable[[int], Initializer] = normal_bias_init

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B H' W' O"]:
        """Return the convolution of x."""
        shape = (*self.sides, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = conv2d(x, kernel.astype(compute_dtype(x, kernel)), self.stride)
        if self.use_bias:
            bias_init = self.bias_init(math.prod(shape[:3]))
            bias = self.param("bias", bias_init, (self.features,))
            y = y + bias.astype(compute_dtype(y, bias))
        return y


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He, arXiv 1803.08494): (x − mean) / √(variance + 1e-5).

    Mean and variance are over height, width and the channels of a group, at least in float32.

    Attributes:
      groups: number of groups; divides the channels.
      affine: whether a scale and a bias per channel follow.
    """

    groups: int
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Return x normalised, in the `compute_dtype` of x and the parameters."""
        dtype, wide = x.dtype, x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, variance = _group_moments(wide, self.groups)
        scale, bias = lax.rsqrt(variance + _EPSILON), 0.0
        if self.affine:
            gain = self.param("scale", nn.initializers.ones, x.shape[-1:])
            bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
            dtype = compute_dtype(x, gain, bias)
            scale = scale * gain
        # Multiplied out, it takes one pass over x, and backward one pass over x and y's cotangent.
        y = wide * scale[:, None, None] + (bias - mean * scale)[:, None, None]
        return y.astype(dtype)


class ConvGN(nn.Module):
    """A convolution without bias and a GroupNorm.

    Attributes:
      features: number of output channels.
      size: the kernel's height and width.
      stride: stride along height and width, at least 1.
      groups: groups of the GroupNorm.
      affine: whether the GroupNorm has scale and bias.
      kernel_init: initialiser of the kernel.
    """

    features: int
    size: int
    groups: int
    affine: bool
    stride: int = 1
    kernel_init: Initializer = normal_init

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B H' W' O"]:
        """Return the normalised convolution of x."""
        x = Conv(self.features, self.size, self.stride, False, self.kernel_init, name="conv")(x)
        return GroupNorm(self.groups, self.affine, name="gnorm")(x)


def _group_moments(
    x: Float[Array, "B H W C"], groups: int
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """Return for each channel the mean and variance of its group."""
    # XLA on CPU is slow at one reduction over height, width and part of the channels.
    width = x.shape[-1] // groups
    means, variances = (moment.reshape(len(x), groups, width) for moment in _channel_moments(x))
    mean = means.mean(axis=-1)
    variance = (variances + jnp.square(means - mean[..., None])).mean(axis=-1)
    return jnp.repeat(mean, width, axis=-1), jnp.repeat(variance, width, axis=-1)


@jax.custom_vjp
def _channel_moments(x: Float[Array, "B H W C"]) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """Return mean and variance over height and width.

    Its derivative needs only x and the mean. JAX's own derivative would store x − mean as well.
    """
    mean = x.mean(axis=(1, 2))
    return mean, jnp.square(x - mean[:, None, None]).mean(axis=(1, 2))


def _channel_moments_fwd(x: Array):
    mean, variance = _channel_moments(x)
    return (mean, variance), (x, mean)


def _channel_moments_bwd(residuals: tuple[Array, Array], bars: tuple[Array, Array]):
    x, mean = residuals
    pixels = x.shape[1] * x.shape[2]
    mean_bar, variance_bar = (bar / pixels for bar in bars)
    slope = 2 * variance_bar
    return (x * slope[:, None, None] + (mean_bar - mean * slope)[:, None, None],)


_channel_moments.defvjp(_channel_moments_fwd, _channel_moments_bwd)
