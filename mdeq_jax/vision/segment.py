"""Segmentation of images of any size: at once or in windows, mirrored, at several scales.

Source: `multi_scale_inference` in `lib/datasets/cityscapes.py` and `inference` in
`lib/datasets/base_dataset.py`, locuslab/deq. Two things differ from the source. The mirrored image
goes through the solver too. Sums of exponentials are stored as logarithms: in float32, exp(100)
overflows, and exp(ℓ) is 0 for a very negative ℓ.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from mdeq_jax.layers.resize import resize_bilinear, scaled_size
from mdeq_jax.vision.config import InferenceConfig

# A function from images, whose size the model accepts, to logits of any resolution and statistics.
DenseForward = Callable[[Float[Array, "B H W 3"]], tuple[Float[Array, "B h w num_classes"], PyTree]]
Resize = Callable[[Array, tuple[int, ...]], Array]


def segment(
    forward: DenseForward, images: Float[Array, "B H W 3"], options: InferenceConfig, divisor: int
) -> tuple[Float[Array, "B H W num_classes"], PyTree]:
    """Return the logits of every pixel.

    One plain pass gives the model's logits, resized with aligned corners, as in training. Otherwise
    the result is log Σ exp(ℓ) over the scales. At one scale, ℓ are the model's logits, resized
    without aligned corners and, with `options.flip`, averaged with the logits of the mirrored
    image. exp(ℓ) is averaged where windows overlap, and resized to the image's size. The originals
    sum exp(ℓ) itself; the argmax is the same where their sum neither over- nor underflows.

    Args:
      forward: the model. The pytree beside its logits holds statistics, arrays (B, ...); in one
        plain pass it may hold anything.
      images: normalised images of any size.
      options: the section `inference` of the config.
      divisor: the model takes images whose sides this number divides.

    Returns:
      The logits, and the statistics, as means over all passes.
    """
    if options.is_plain:
        return forward_padded(forward, images, divisor)
    per_scale = [at_scale(forward, images, scale, options, divisor) for scale in options.scales]
    logits, statistics = zip(*per_scale, strict=True)
    passes = jax.tree.map(lambda *rows: jnp.concatenate(rows), *statistics)
    means = jax.tree.map(lambda rows: rows.mean(axis=0), passes)
    return functools.reduce(jnp.logaddexp, logits), means


def forward_padded(
    forward: DenseForward,
    images: Float[Array, "B H W 3"],
    divisor: int,
    resize: Resize = resize_bilinear,
) -> tuple[Float[Array, "B H W num_classes"], PyTree]:
    """Return the logits of every pixel of images of any size, and the pytree of `forward`.

    Images are padded with zeros at the bottom and at the right, as in training, until `divisor`
    divides their sides. The logits of the padding are dropped.

    Args:
      forward: the model.
      images: normalised images.
      divisor: the model takes images whose sides this number divides.
      resize: resizes the logits to the size of the padded images.
    """
    height, width = images.shape[1:3]
    padded = jnp.pad(images, padding(images.shape, divisor))
    logits, rest = forward(padded)
    return resize(logits, padded.shape[1:3])[:, :height, :width], rest


def padding(shape: tuple[int, ...], divisor: int) -> list[tuple[int, int]]:
    """Return the padding of each axis that makes height and width divisible.

    Args:
      shape: (B, H, W, ...).
      divisor: number by which the padded sides are divisible.

    Examples:
      >>> padding((1, 30, 65, 3), 32)
      [(0, 0), (0, 2), (0, 31), (0, 0)]
    """
    _, height, width, *rest = shape
    return [(0, 0), (0, -height % divisor), (0, -width % divisor), *((0, 0) for _ in rest)]


def at_scale(
    forward: DenseForward,
    images: Float[Array, "B H W 3"],
    scale: float,
    options: InferenceConfig,
    divisor: int,
) -> tuple[Float[Array, "B H W num_classes"], PyTree]:
    """Return the ℓ of `segment` at one scale, and the statistics of each pass (passes, B, ...)."""
    size = images.shape[1:3]
    scaled = resize_unaligned(images, scaled_size(size, scale))
    window = scaled.shape[1:3]
    if scale > 1 and options.window is not None:
        window = tuple(map(min, options.window, window))
    corners = list(itertools.product(*map(window_starts, scaled.shape[1:3], window)))
    height, width = window
    views = jnp.stack([scaled[:, i : i + height, j : j + width] for i, j in corners])
    see = functools.partial(_see, forward, flip=options.flip, divisor=divisor)
    # One after the other, so that a large image does not need more memory than one window.
    logits, statistics = lax.map(see, views)
    statistics = jax.tree.map(lambda rows: rows.reshape(-1, *rows.shape[2:]), statistics)
    return _resize_exp(_assemble(logits, corners, scaled.shape[1:3]), size), statistics


def window_starts(side: int, window: int) -> list[int]:
    """Return where windows begin that lie side by side and cover a side.

    The last window ends with the side, and may therefore overlap the one before.

    Args:
      side: length of the side, at least 1.
      window: length of a window, in [1, side].

    Examples:
      >>> window_starts(100, 40)
      [0, 40, 60]
    """
    return [min(start, side - window) for start in range(0, side, window)]


def resize_unaligned(
    images: Float[Array, "B h w C"], size: tuple[int, ...]
) -> Float[Array, "B H W C"]:
    """Resize bilinearly, the centre of sample i of n at (i + ½) m / n among m pixels.

    That is PyTorch's ``align_corners=False`` and OpenCV's ``INTER_LINEAR``: nothing is averaged
    where an image shrinks.
    """
    shape = (images.shape[0], *size, images.shape[-1])
    return jax.image.resize(images, shape, "linear", antialias=False)


def _see(
    forward: DenseForward, images: Float[Array, "B H W 3"], *, flip: bool, divisor: int
) -> tuple[Float[Array, "B H W num_classes"], PyTree]:
    """Return the logits of every pixel, and statistics of one or two passes (passes, B, ...)."""
    pass_over = functools.partial(forward_padded, forward, divisor=divisor, resize=resize_unaligned)
    if not flip:
        logits, statistics = pass_over(images)
        return logits, jax.tree.map(lambda row: row[None], statistics)
    both = jnp.stack([images, jnp.flip(images, axis=2)])
    (straight, mirrored), statistics = lax.map(pass_over, both)
    return (straight + jnp.flip(mirrored, axis=2)) / 2, statistics


def _assemble(
    windows: Float[Array, "n B h w C"], corners: list[tuple[int, ...]], size: tuple[int, ...]
) -> Float[Array, "B H W C"]:
    """Put windows in their places; where they overlap, take the log of the mean of exp."""
    _, batch, height, width, channels = windows.shape
    whole = jnp.full((batch, *size, channels), -jnp.inf, windows.dtype)
    count = np.zeros((*size, 1))
    for window, (top, left) in zip(windows, corners, strict=True):
        place = np.s_[top : top + height, left : left + width]
        whole = whole.at[:, *place].set(jnp.logaddexp(whole[:, *place], window))
        count[place] += 1
    return whole - np.log(count).astype(windows.dtype)


def _resize_exp(logits: Float[Array, "B h w C"], size: tuple[int, ...]) -> Float[Array, "B H W C"]:
    """Return the log of `resize_unaligned` of exp(logits) without computing exp(logits)."""
    if logits.shape[1:3] == size:
        return logits
    for axis, n in enumerate(size, start=1):
        m = logits.shape[axis]
        position = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        low = position.astype(int)
        share = jnp.asarray(position - low, logits.dtype).reshape(-1, *[1] * (3 - axis))
        first, second = (logits.take(np.minimum(k, m - 1), axis) for k in (low, low + 1))
        logits = jnp.logaddexp(first + jnp.log(1 - share), second + jnp.log(share))
    return logits
