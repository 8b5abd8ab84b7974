"""Variational dropout: masks that are drawn once for each sample and hold during a solve."""

import itertools
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Key

from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.solvers.keys import fold_in_each


class LayerMasks(NamedTuple):
    """Masks of one layer of the cell; entries are 0 or 1 / (1 − p), and None is no dropout.

    Attributes:
      weights: mask of the attention weights.
      attended: mask of the output of attention, the same at all positions.
      inner: mask of the inner channels of the feed-forward network.
      outer: mask of the output of the feed-forward network.
    """

    weights: Float[Array, "B heads L K"] | None = None
    attended: Float[Array, "B 1 D"] | None = None
    inner: Float[Array, "B 1 inner"] | None = None
    outer: Float[Array, "B 1 D"] | None = None


class Masks(NamedTuple):
    """Masks of one pass of the model; None is no dropout.

    Attributes:
      words: mask of the embedded words.
      positions: mask of the position vectors.
      output: mask of the equilibrium on its way to the softmax, which drops whole positions.
      layers: masks of each layer of the cell.
    """

    words: Float[Array, "B 1 D"] | None = None
    positions: Float[Array, "B 1 D"] | None = None
    output: Float[Array, "B L 1"] | None = None
    layers: tuple[LayerMasks, ...] | None = None


def draw_masks(config: ModelConfig, keys: Key[Array, " B"], length: int, memory: int) -> Masks:
    """Return random masks for each sample.

    The mask of the position vectors is drawn for each sample; the originals draw one for a batch.

    Args:
      config: the architecture, for the rates and widths.
      keys: one random key for each sample.
      length: number L of positions.
      memory: number M of positions of the memory.
    """
    number = itertools.count()

    def mask(rate: float, *shape: int) -> Array | None:
        each, keep = fold_in_each(keys, next(number)), 1 - rate
        if rate == 0:
            return None
        return jax.vmap(lambda key: jax.random.bernoulli(key, keep, shape) / keep)(each)

    def channels(width: int) -> Array | None:
        return mask(config.dropout, 1, width)

    def layer_masks() -> LayerMasks:
        return LayerMasks(
            mask(config.attention_dropout, config.heads, length, memory + length),
            channels(config.width),
            channels(config.inner_width),
            channels(config.width),
        )

    return Masks(
        words=channels(config.width),
        positions=channels(config.width),
        output=mask(config.dropout, length, 1),
        layers=tuple(layer_masks() for _ in range(config.cell_layers)),
    )


def masked(x: Array, mask: Array | None) -> Array:
    """Return x times a mask, in the dtype of x; None is no mask."""
    return x if mask is None else x * mask.astype(x.dtype)
