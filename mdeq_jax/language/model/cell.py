"""The cell of a DEQ-Transformer: layers of attention and a feed-forward network.

Sources: Bai, Kolter and Koltun, "Deep Equilibrium Models", NeurIPS 2019, arXiv 1909.01377;
DEQ-Sequence/models of locuslab/deq; deq-zoo/deq-lm/models of locuslab/torchdeq.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from mdeq_jax.language.model.attention import (
    Past,
    RelativeAttention,
    initial_kernel,
    layer_norm,
)
from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.language.model.dropout import LayerMasks, masked


class Context(NamedTuple):
    """What the cell sees beside the state.

    Attributes:
      u: the injection of the words.
      past: what the attention of each layer knows of the memory.
      filled: how many of the last positions of the memory hold something.
      masks: masks of dropout of each layer; None is no dropout.
    """

    u: Float[Array, "B L 3*D"]
    past: tuple[Past, ...]
    filled: Int[Array, " B"]
    masks: tuple[LayerMasks, ...] | None = None


class CellArgs(NamedTuple):
    """The arguments of the cell that gradients are taken with respect to.

    Attributes:
      params: the cell's parameters with plain kernels.
      context: what the cell sees beside the state.
    """

    params: PyTree
    context: Context


class Cell(nn.Module):
    """The layers of one application.

    Attributes:
      config: the architecture.
      dtype: dtype in which the linear maps compute; None is the dtype of inputs and parameters.
    """

    config: ModelConfig
    dtype: str | None = None

    def setup(self):
        """Declare the parameters."""
        self.layers = [
            DecoderLayer(self.config, self.dtype) for _ in range(self.config.cell_layers)
        ]

    def past(
        self,
        z: Float[Array, "B M D"],
        u: Float[Array, "B M 3*D"],
        positions: Float[Array, "#B M+L D"],
    ) -> tuple[Past, ...]:
        """Return what the attention of each layer knows of the memory.

        Args:
          z: equilibria of the memory.
          u: injections of the memory.
          positions: position vectors of the distances M + L − 1, …, 0.
        """
        return tuple(layer.past(z, u, positions) for layer in self.layers)

    def __call__(self, z: Float[Array, "B L D"], context: Context) -> Float[Array, "B L D"]:
        """Return f(z), in the dtype of z."""
        h = z
        masks = context.masks or (None,) * len(self.layers)
        for layer, past, mask in zip(self.layers, context.past, masks, strict=True):
            h = layer(h, context.u, past, context.filled, mask)
        return h.astype(z.dtype)


class DecoderLayer(nn.Module):
    """Attention A and feed-forward network F(y) = W₂ relu(W₁ y + b₁) + b₂, by kind of the cell.

        post:     y = N(z + A(z)),     N(y + F(y))
        pre:      y = N(z + A(N(z))),  y + F(y)
        stacked:  y = z + A(N₁(z)),    y + F(N₂(y))

    N is LayerNorm; in a "stacked" cell, with a scale and a bias. A "pre" cell adds to the
    normalised y, as locuslab/deq has it.

    Attributes:
      config: the architecture.
      dtype: dtype in which the linear maps compute; None is the dtype of inputs and parameters.
    """

    config: ModelConfig
    dtype: str | None = None

    def setup(self):
        """Declare the parameters."""
        config, stacked = self.config, self.config.kind == "stacked"
        linear = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=initial_kernel(config))
        self.attention = RelativeAttention(config, self.dtype)
        self.inner, self.outer = linear(config.inner_width), linear(config.width)
        self.norm_attention = layer_norm(affine=stacked)
        self.norm_network = layer_norm(affine=stacked)

    def past(
        self,
        z: Float[Array, "B M D"],
        u: Float[Array, "B M 3*D"],
        positions: Float[Array, "#B M+L D"],
    ) -> Past:
        """Return what this layer's attention knows of the memory; arguments as in `Cell.past`."""
        return self.attention.past(self._attended(z), u, positions)

    def __call__(
        self,
        z: Float[Array, "B L D"],
        u: Float[Array, "B L 3*D"],
        past: Past,
        filled: Int[Array, " B"],
        masks: LayerMasks | None,
    ) -> Float[Array, "B L D"]:
        """Return the layer's output.

        Args:
          z: states.
          u: injections.
          past: what `past` returned.
          filled: how many of the last positions of the memory hold something.
          masks: masks of dropout; None is no dropout.
        """
        masks = masks or LayerMasks()
        attended = self.attention(self._attended(z), u, past, filled, masks.weights)
        y = z + masked(attended, masks.attended)
        normalised = self.norm_network(y)
        inner = masked(nn.relu(self.inner(normalised)), masks.inner)
        kept = y if self.config.kind == "stacked" else normalised
        out = kept + masked(self.outer(inner), masks.outer)
        return self.norm_network(out) if self.config.kind == "post" else out

    def _attended(self, z: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Return what attention sees of a state."""
        return z if self.config.kind == "post" else self.norm_attention(z)


@functools.cache  # one function per cell, as it is part of a `Solution`'s structure
def cell_function(
    config: ModelConfig, dtype: str | None = None
) -> Callable[[Float[Array, "B L D"], CellArgs], Float[Array, "B L D"]]:
    """Return the cell as a pure function (z, args) -> z.

    Args:
      config: the architecture.
      dtype: dtype in which the linear maps compute; None is the dtype of inputs and parameters.
    """
    cell = Cell(config, dtype, parent=None)

    def f(z: Float[Array, "B L D"], args: CellArgs) -> Float[Array, "B L D"]:
        return cast(Array, cell.apply({"params": args.params}, z, args.context))

    return jax.checkpoint(f) if config.remat else f
