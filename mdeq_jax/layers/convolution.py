"""Convolution whose derivatives are fast on CPU inside a loop."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def conv2d(
    x: Float[Array, "B H W I"], kernel: Float[Array, "h w I O"], stride: int = 1
) -> Float[Array, "B H' W' O"]:
    """Convolve with zeros around: y[p] = Σ_q x[stride·p + q − margin] kernel[q].

    The margin is (h − 1) // 2 pixels above and below, and (w − 1) // 2 to the left and right.

    Reverse derivatives of any order are exact, and as fast inside a loop as the convolution itself
    if `jax.vjp` is taken outside of it. Forward-mode derivatives are not defined on CPU.

    Args:
      x: images of any height and width.
      kernel: kernel with odd height h and width w, such as 3×3 or 1×5.
      stride: stride along height and width, at least 1.

    Returns:
      Images of (H − 1) // stride + 1 by (W − 1) // stride + 1 pixels, in the promoted dtype of x
      and kernel.
    """
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if kernel.shape[:2] == (1, 1):
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    # The libraries of other devices have their own fast derivatives.
    convolve = _convolve if jax.default_backend() == "cpu" else _lax_convolve
    return convolve(x, kernel, stride)


def _lax_convolve(x: Array, kernel: Array, stride: int) -> Array:
    above, left = ((side - 1) // 2 for side in kernel.shape[:2])
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((above, above), (left, left)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_convolve = jax.custom_vjp(_lax_convolve, nondiff_argnums=(2,))


def _convolve_fwd(x: Array, kernel: Array, stride: int):
    # XLA's own transpose swaps the kernel's channels by dimension numbers, for which XLA on CPU has
    # no fast path in a loop. Here the kernel is swapped once, outside of the loop.
    if stride == 1:
        # Fused with the flip into one loop, the swap would be slow.
        swapped = jnp.flip(lax.optimization_barrier(kernel.swapaxes(2, 3)), (0, 1))
    else:
        swapped = jnp.moveaxis(kernel, 3, 0)
    return _convolve(x, kernel, stride), (x, kernel, swapped)


def _convolve_bwd(stride: int, residuals: tuple[Array, ...], y_bar: Array):
    x, kernel, swapped = residuals
    if stride == 1:
        x_bar = _convolve(y_bar, swapped, 1)
    else:
        x_bar = _transposed_by_products(y_bar, swapped, stride, x.shape[1:3])
    # By transposition, because under shard_map it sums a shared kernel's gradient over devices.
    _, pullback = jax.vjp(lambda kernel: _lax_convolve(x, kernel, stride), kernel)
    return x_bar, *pullback(y_bar)


_convolve.defvjp(_convolve_fwd, _convolve_bwd)


def _transposed_by_products(
    y_bar: Float[Array, "B h w O"],
    swapped: Float[Array, "O j k I"],
    stride: int,
    sides: Sequence[int],
) -> Float[Array, "B H W I"]:
    """Return Σ_q y_bar[p] swapped[:, q] at pixel stride·p + q − margin, images of the given sides.

    One matrix product for all q. The pixels of each remainder by the stride are then separate sums,
    and a reshape interleaves them. A convolution over y_bar with interleaved zeros would be stride²
    times the work.
    """
    outputs, j, k, width = swapped.shape
    products = y_bar @ swapped.reshape(outputs, j * k * width)
    products = products.reshape(*y_bar.shape[:3], j, k, width)
    height, breadth = (-(-side // stride) for side in sides)
    zeros = jnp.zeros((len(y_bar), height, breadth, width), y_bar.dtype)

    def pixels(row: int, column: int) -> Array:
        terms = (
            _window(products[:, :, :, p, q], (top, left), (height, breadth))
            for p, top in _taps(row, j, stride)
            for q, left in _taps(column, k, stride)
        )
        return sum(terms, zeros)  # no terms if the stride is above j or k

    columns = range(stride)
    rows = [jnp.stack([pixels(r, c) for c in columns], axis=3) for r in range(stride)]
    x_bar = jnp.stack(rows, axis=2)
    x_bar = x_bar.reshape(len(y_bar), height * stride, breadth * stride, width)
    return x_bar[:, : sides[0], : sides[1]]


def _taps(remainder: int, k: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yield each q for which stride·p + q − margin can be stride·n + remainder, with its p − n."""
    for q in range(k):
        distance, rest = divmod(remainder + (k - 1) // 2 - q, stride)
        if rest == 0:
            yield q, distance


def _window(
    x: Float[Array, "B H W C"], start: Sequence[int], size: Sequence[int]
) -> Float[Array, "B h w C"]:
    """Return the part of x from a corner on, with zeros where it lies outside of x."""
    sides = zip(x.shape[1:3], start, size, strict=True)
    edges = ((-first, first + length - side, 0) for side, first, length in sides)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
