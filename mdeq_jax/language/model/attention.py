"""Attention with relative positions over a memory and the state.

Source: Dai et al., "Transformer-XL", ACL 2019, arXiv 1901.02860; DEQ-Sequence/models of
locuslab/deq, whose scores are computed here once per solve where they do not depend on the state.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.layers.modules import normal_init, torch_init
from mdeq_jax.solvers.norms import to_working_dtype


class Past(NamedTuple):
    """What attention knows beside the state, constant during a solve.

    Attributes:
      keys: keys of the memory.
      values: values of the memory.
      distances: keys of the distances M + L − 1, …, 1, 0 between a query and what it attends to.
    """

    keys: Float[Array, "B M heads E"]
    values: Float[Array, "B M heads E"]
    distances: Float[Array, "#B M+L heads E"]


class RelativeAttention(nn.Module):
    """Softmax attention of each position to itself, to earlier ones and to the memory.

        score(i, j) = ((q_i + a)ᵀ k_j + (q_i + b)ᵀ r_{M+i−j}) / √E,   j = 0 … M + L − 1
        q, k, v = W [h_memory, h] + [u_memory, u],  r_d = R position(d)

    a and b are learned vectors of each head. `jax.nn.dot_product_attention` is not used: it takes
    no dropout mask, and its fused version has no second derivative and needs E divisible by 8.

    Attributes:
      config: the architecture; each head has E = D / heads channels.
      dtype: dtype in which the linear maps compute; None is the dtype of inputs and parameters.
    """

    config: ModelConfig
    dtype: str | None = None

    def setup(self):
        """Declare the parameters."""
        config = self.config
        linear = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=initial_kernel(config))
        self.qkv = linear(3 * config.width, use_bias=False)
        self.position = linear(config.width, use_bias=False)
        self.output = linear(config.width)
        shape = (config.heads, config.width // config.heads)
        self.content_bias = self.param("content_bias", normal_init, shape)
        self.position_bias = self.param("position_bias", normal_init, shape)
        if config.kind == "stacked":
            self.norm = layer_norm(affine=True)

    def past(
        self,
        h: Float[Array, "B M D"],
        u: Float[Array, "B M 3*D"],
        positions: Float[Array, "#B M+L D"],
    ) -> Past:
        """Return what attention knows of the memory.

        Args:
          h: states of the memory, normalised as the queries are.
          u: injections of the memory.
          positions: position vectors of the distances M + L − 1, …, 0.
        """
        _, keys, values = self._qkv(h, u)
        return Past(keys, values, self._by_head(self.position(positions)))

    def __call__(
        self,
        h: Float[Array, "B L D"],
        u: Float[Array, "B L 3*D"],
        past: Past,
        filled: Int[Array, " B"],
        mask: Float[Array, "B heads L M+L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Return the attended values, mapped to the width.

        Args:
          h: states.
          u: their injections.
          past: what `past` returned.
          filled: how many of the last positions of the memory hold something.
          mask: dropout mask of the attention weights; None is no dropout.
        """
        q, k, v = self._qkv(h, u)
        k = jnp.concatenate([past.keys, k], axis=1)
        v = jnp.concatenate([past.values, v], axis=1)
        a, b = (bias.astype(q.dtype) for bias in (self.content_bias, self.position_bias))
        by_content = jnp.einsum("bihe,bjhe->bhij", q + a, k)
        by_distance = jnp.einsum("bihe,bjhe->bhij", q + b, past.distances)
        scores = to_working_dtype(by_content + relative_shift(by_distance))
        scores = scores / math.sqrt(q.shape[-1])
        visible = visible_positions(filled, h.shape[1], k.shape[1], self.config.local)
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf)).astype(v.dtype)
        if mask is not None:
            weights = weights * mask.astype(weights.dtype)
        attended = jnp.einsum("bhij,bjhe->bihe", weights, v).reshape(h.shape)
        return self.output(self.norm(attended) if self.config.kind == "stacked" else attended)

    def _qkv(
        self, h: Float[Array, "B N D"], u: Float[Array, "B N 3*D"]
    ) -> list[Float[Array, "B N heads E"]]:
        """Return queries, keys and values."""
        qkv = self.qkv(h)
        return [self._by_head(x) for x in jnp.split(qkv + u.astype(qkv.dtype), 3, axis=-1)]

    def _by_head(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape heads E"]:
        heads = self.config.heads
        return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def relative_shift(x: Float[Array, "B heads L K"]) -> Float[Array, "B heads L K"]:
    """Return y with y[i, j] = x[i, j + L − 1 − i]; entries with j > i + K − L mean nothing.

    Args:
      x: scores of each query i by distance, the largest distance K − 1 first.
    """
    *batch, length, keys = x.shape
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)])
    return padded.reshape(*batch, keys + 1, length)[..., 1:, :].reshape(x.shape)


def visible_positions(
    filled: Int[Array, " B"], length: int, keys: int, local: int
) -> Bool[Array, "B 1 L K"]:
    """Return which positions each query attends to: itself, and earlier ones that exist.

    Args:
      filled: how many of the last positions of the memory hold something.
      length: number L of queries.
      keys: number K of positions of memory and state.
      local: number of positions, its own included, that a query attends to; 0 is no limit.
    """
    memory = keys - length
    distance = jnp.arange(length)[:, None] + memory - jnp.arange(keys)
    seen = (distance >= 0) & (distance < (local or keys))
    exists = jnp.arange(keys) >= memory - filled[:, None]
    return (seen & exists[:, None])[:, None]


def position_vectors(count: int, width: int) -> Float[np.ndarray, "count width"]:
    """Return the vectors of the distances count − 1, …, 1, 0: sines, then cosines.

    Args:
      count: number of distances.
      width: width of a vector; even.
    """
    frequencies = 10000.0 ** -(np.arange(0, width, 2) / width)
    angles = np.arange(count)[::-1, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def initial_kernel(config: ModelConfig) -> nn.initializers.Initializer:
    """Return the initialiser of the cell's linear maps.

    It is N(0, 0.01²). The maps that locuslab/deq normalises have PyTorch's default, because its own
    initial values never reach them.

    Args:
      config: the architecture.
    """
    return torch_init if config.weight_norm and config.kind != "stacked" else normal_init


def layer_norm(affine: bool) -> nn.LayerNorm:
    """Return a LayerNorm of the last axis, (x − mean) / √(variance + 1e-5), computed in 32 bits.

    Args:
      affine: whether a scale and a bias per channel follow.
    """
    return nn.LayerNorm(
        epsilon=1e-5,
        use_scale=affine,
        use_bias=affine,
        use_fast_variance=False,
        scale_init=lambda key, shape, dtype=jnp.float32: 1 + normal_init(key, shape, dtype),
    )
