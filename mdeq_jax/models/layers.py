"""What stem, cell and head are made of: convolution, GroupNorm, a convolution with either norm."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax import lax
from jaxtyping import Array, Float

_EPSILON = 1e-5

# N(0, 0.01²), as the originals initialise convolutions.
normal_init = nn.initializers.normal(0.01)

# Pixels from which on the kernel's gradient is taken as a sum of matrix products on CPU.
_MANY_PIXELS = 28 * 28

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv2d(
    x: Float[Array, "B H W I"], kernel: Float[Array, "k k I O"], stride: int = 1
) -> Float[Array, "B H' W' O"]:
    """Convolve with (k − 1) // 2 zeros around: y[p] = Σ_q x[stride·p + q − (k − 1) // 2] kernel[q].

    Reverse derivatives of any order are exact, and as fast inside a loop as the convolution itself
    if `jax.vjp` is taken outside of it. Forward-mode derivatives are not defined.

    Args:
      x: images, height and width of any size.
      kernel: as high as wide, k odd.
      stride: at least 1, for height and width.

    Returns:
      Images of (H − 1) // stride + 1 by (W − 1) // stride + 1, in the promoted dtype of both.
    """
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if kernel.shape[:2] == (1, 1):
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    margin = (kernel.shape[0] - 1) // 2
    return _convolve(x, kernel, stride, ((margin, margin), (margin, margin)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    return _lax_convolve(x, kernel, stride, padding)


def _lax_convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_fwd(x: Array, kernel: Array, stride: int, padding: Padding):
    # XLA's own transpose swaps the kernel's channels by dimension numbers, for which XLA on CPU has
    # no fast path in a loop. Flipped here, it is a plain kernel that the loop need not touch again.
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _convolve(x, kernel, stride, padding), (x, kernel, flipped)


def _convolve_bwd(stride: int, padding: Padding, residuals: tuple[Array, ...], y_bar: Array):
    x, kernel, flipped = residuals
    k = kernel.shape[0]
    inside = (0, 0, stride - 1)
    spread = lax.pad(y_bar, jnp.zeros((), y_bar.dtype), ((0, 0, 0), inside, inside, (0, 0, 0)))
    around = tuple(
        (k - 1 - before, size + before - spread_size)
        for (before, _), size, spread_size in zip(
            padding, x.shape[1:3], spread.shape[1:3], strict=True
        )
    )
    # By transposition, which under shard_map sums a shared kernel's gradient over devices.
    large = y_bar.shape[1] * y_bar.shape[2] >= _MANY_PIXELS and jax.default_backend() == "cpu"
    forward = convolve_by_products if large else _lax_convolve
    _, pullback = jax.vjp(lambda kernel: forward(x, kernel, stride, padding), kernel)
    return _convolve(spread, flipped, 1, around), *pullback(y_bar)


_convolve.defvjp(_convolve_fwd, _convolve_bwd)


def convolve_by_products(
    x: Float[Array, "B H W I"], kernel: Float[Array, "k k I O"], stride: int, padding: Padding
) -> Float[Array, "B H' W' O"]:
    """Return the convolution of `conv2d`, a matrix product for each entry of the kernel's window.

    Its transpose with respect to the kernel is, on many pixels, about twice as fast on CPU as that
    of XLA's convolution. What is shifted is the side of fewer channels.

    Args:
      x: images.
      kernel: kernel.
      stride: 1 or 2.
      padding: zeros before and after, of height and of width.
    """
    k, zero = kernel.shape[0], jnp.zeros((), x.dtype)
    offsets = [(i, j) for i in range(k) for j in range(k)]
    if stride == 1 and kernel.shape[3] < kernel.shape[2]:
        (top, bottom), (left, right) = padding
        shifts = [
            ((top - i, bottom + i - k + 1), (left - j, right + j - k + 1)) for i, j in offsets
        ]
        products = (x @ kernel[i, j] for i, j in offsets)
        return _total(
            lax.pad(y, zero, ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))
            for y, (rows, columns) in zip(products, shifts, strict=True)
        )
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = (((side - k) // stride) * stride + 1 for side in x.shape[1:3])
    return _total(
        x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j] for i, j in offsets
    )


def _total(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)


class Conv(nn.Module):
    """`conv2d` with its parameters: kernel, and a bias if asked for.

    Attributes:
      features: output channels.
      size: 1, 3 or 5, the kernel's height and width.
      stride: as in `conv2d`.
      use_bias: whether there is a bias, initialised as N(0, 0.01²).
      kernel_init: initialiser of the kernel.
    """

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    kernel_init: Initializer = normal_init

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B H' W' O"]:
        """Return the convolution of x."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        y = conv2d(x, self.param("kernel", self.kernel_init, shape), self.stride)
        if self.use_bias:
            y = y + self.param("bias", normal_init, (self.features,))
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
        """Return x normalised, in the promoted dtype of x and the parameters."""
        dtype = x.dtype
        x = x.astype(jnp.promote_types(dtype, jnp.float32))
        x = x - _group_means(x, self.groups)
        y = x * lax.rsqrt(_group_means(jnp.square(x), self.groups) + _EPSILON)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
            bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
            dtype = jnp.result_type(dtype, scale, bias)
            y = y * scale + bias
        return y.astype(dtype)


def _group_means(x: Float[Array, "B H W C"], groups: int) -> Float[Array, "B 1 1 C"]:
    # XLA on CPU is slow at one reduction over height, width and part of the channels.
    per_channel = x.mean(axis=(1, 2))
    batch, channels = per_channel.shape
    means = per_channel.reshape(batch, groups, -1).mean(axis=-1)
    return jnp.repeat(means, channels // groups, axis=-1)[:, None, None]


class ConvGN(nn.Module):
    """A convolution without bias and a GroupNorm.

    Attributes:
      features: output channels.
      size: the kernel's height and width.
      stride: as in `conv2d`.
      groups: groups of the GroupNorm.
      affine: whether it has scale and bias.
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


class ConvBN(nn.Module):
    """A convolution and a BatchNorm.

    Attributes:
      features: output channels.
      size: the kernel's height and width.
      stride: as in `conv2d`.
      use_bias: whether the convolution has a bias.
      affine: whether the BatchNorm has scale and bias.
      momentum: share of the running statistics kept at a training step.
      axis_name: mesh axis over which a training step averages the statistics.
    """

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    affine: bool = True
    momentum: float = 0.9
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B H' W' O"]:
        """Return the normalised convolution of x; with `train`, by the batch's own statistics."""
        x = Conv(self.features, self.size, self.stride, self.use_bias, name="conv")(x)
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=_EPSILON,
            use_scale=self.affine,
            use_bias=self.affine,
            axis_name=self.axis_name,
            name="bn",
        )
        return norm(x)
