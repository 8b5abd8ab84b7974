"""A cell of transformer blocks for problems of one size, such as Sudoku.

Source: models/eqr.py, models/trm.py and models/layers.py of locuslab/EqR (Huang, Geng, Kolter,
"Equilibrium Reasoners", arXiv 2605.21488).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from mdeq_jax.reasoning.model.config import ModelConfig
from mdeq_jax.reasoning.model.halting import HaltingHead
from mdeq_jax.solvers.norms import to_working_dtype

_EPSILON = 1e-5
# Inner widths are rounded up to a multiple of this number, which suits vector units.
_MULTIPLE = 32


class Transformer(nn.Module):
    """Transformer blocks with the embedded input added to the state at every application.

        f(z, x) = block(... block(z + x)),  x = √D (E inputs + p) / √2
        block(h) = norm(a + mlp(a)),  a = norm(h + mix(h)),  norm(h) = h / √(mean h² + 1e-5)

    p are the learned vectors of the positions; without them, x = √D E inputs. There are no biases.

    Attributes:
      config: the architecture; its kind is "transformer".
      channels: number of channels of the inputs.
      classes: number of classes of a position.
      size: height H and width W of the grid.
      dtype: dtype in which embedding, blocks and head compute; None is the dtype of inputs and
        parameters. The norms, the state and the logits have at least 32 bits.
    """

    config: ModelConfig
    channels: int
    classes: int
    size: tuple[int, int]
    dtype: str | None = None

    def setup(self):
        """Declare the parameters."""
        config, std = self.config, self.config.width**-0.5
        self.embedding = nn.Dense(
            config.width,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(std),
        )
        if config.positions != "none":
            self.positions = Positions(config.width, self.size, config.positions == "axes")
        self.blocks = [Block(config, self.dtype) for _ in range(config.layers)]
        self.output = nn.Dense(self.classes, use_bias=False, dtype=self.dtype)
        if config.halting:
            self.halting = HaltingHead()

    def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B H W K"]:
        """Return the logits after one application; `init` uses every parameter."""
        x = self.inject(inputs)
        z = self.cell(self.start(inputs, x), x)
        if self.config.halting:
            self.halt(z)
        return self.head(z)

    def inject(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        """Return the embedded input.

        Raises:
          ValueError: the inputs have another size or other channels than the model.
        """
        if inputs.shape[1:] != (*self.size, self.channels):
            raise ValueError(
                f"inputs have the shape {inputs.shape}; this transformer takes (B, "
                f"{self.size[0]}, {self.size[1]}, {self.channels}). A recurrent model "
                "(config.model.kind='recurrent') takes any size."
            )
        x = to_working_dtype(self.embedding(inputs))
        if self.config.positions != "none":
            x = (x + self.positions()) / math.sqrt(2)
        return math.sqrt(self.config.width) * x

    def start(
        self, inputs: Float[Array, "B H W C"], x: Float[Array, "B H W D"]
    ) -> Float[Array, "B H W D"]:
        """Return the initial state: zeros, or the embedded input x."""
        return x if self.config.start == "projection" else jnp.zeros_like(x)

    def cell(
        self, z: Float[Array, "B H W D"], x: Float[Array, "B H W D"]
    ) -> Float[Array, "B H W D"]:
        """Return f(z, x), in the dtype of z."""
        h = (z + x).reshape(len(z), -1, self.config.width)
        h = h if self.dtype is None else h.astype(self.dtype)
        for block in self.blocks:
            h = block(h)
        return h.reshape(z.shape).astype(z.dtype)

    def head(self, z: Float[Array, "B H W D"]) -> Float[Array, "B H W K"]:
        """Return the logits of the classes."""
        return to_working_dtype(self.output(z))

    def halt(self, z: Float[Array, "B H W D"]) -> Float[Array, " B"]:
        """Return for each sample the logit that its answer is right; needs `config.halting`."""
        return self.halting(z)


class Positions(nn.Module):
    """Learned vectors of the positions of a grid.

    Attributes:
      width: number of channels.
      size: height and width of the grid.
      axes: whether a position's vector is the sum of its row's, its column's and, if the grid is a
        square whose side is a square number, its box's. Otherwise each position has its own.
    """

    width: int
    size: tuple[int, int]
    axes: bool

    @nn.compact
    def __call__(self) -> Float[Array, "H W D"]:
        """Return the vectors, whose entries start with variance 1 / D."""
        rows, columns = np.indices(self.size)
        numbers = {"position": rows * self.size[1] + columns}
        if self.axes:
            numbers = {"row": rows, "column": columns}
            side = math.isqrt(self.size[0])
            if self.size == (side**2, side**2):
                numbers["box"] = rows // side * side + columns // side
        init = nn.initializers.normal((self.width * len(numbers)) ** -0.5)

        def vectors(name: str, number: np.ndarray) -> Float[Array, "H W D"]:
            return self.param(name, init, (number.max() + 1, self.width))[number]

        return functools.reduce(jnp.add, [vectors(*item) for item in numbers.items()])


class Block(nn.Module):
    """a = norm(h + mix(h)), then norm(a + mlp(a)).

    Attributes:
      config: the architecture.
      dtype: dtype in which the linear maps compute; None is the dtype of h and parameters.
    """

    config: ModelConfig
    dtype: str | None = None

    @nn.compact
    def __call__(self, h: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Return the block's output."""
        if self.config.mixing == "attention":
            mixed = Attention(self.config.heads, self.dtype, name="attention")(h)
        else:
            mix = GatedUnit(self.config.expansion, self.dtype, name="mixing")
            mixed = mix(h.swapaxes(1, 2)).swapaxes(1, 2)
        h = rms_norm(h + mixed)
        return rms_norm(h + GatedUnit(self.config.expansion, self.dtype, name="mlp")(h))


class Attention(nn.Module):
    """Softmax attention between all positions.

    Attributes:
      heads: number of heads; divides the width.
      dtype: dtype in which the linear maps compute; None is the dtype of h and parameters.
    """

    heads: int
    dtype: str | None = None

    @nn.compact
    def __call__(self, h: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Return the attended values, mapped to the width."""
        batch, length, width = h.shape
        qkv = nn.Dense(3 * width, use_bias=False, dtype=self.dtype, name="qkv")(h)
        qkv = qkv.reshape(batch, length, 3, self.heads, width // self.heads)
        attended = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        out = nn.Dense(width, use_bias=False, dtype=self.dtype, name="out")
        return out(attended.reshape(h.shape))


class GatedUnit(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202): W₃ (silu(W₁ h) · W₂ h) over the last axis.

    Attributes:
      expansion: inner width as a multiple of 2/3 of the outer width; it is rounded up to a multiple
        of 32.
      dtype: dtype in which the linear maps compute; None is the dtype of h and parameters.
    """

    expansion: float
    dtype: str | None = None

    @nn.compact
    def __call__(self, h: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        """Return the unit's output."""
        inner = math.ceil(round(2 / 3 * self.expansion * h.shape[-1]) / _MULTIPLE) * _MULTIPLE
        both = nn.Dense(2 * inner, use_bias=False, dtype=self.dtype, name="gate_and_up")(h)
        gate, up = jnp.split(both, 2, axis=-1)
        down = nn.Dense(h.shape[-1], use_bias=False, dtype=self.dtype, name="down")
        return down(nn.silu(gate) * up)


def rms_norm(h: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
    """Return h / √(mean h² + 1e-5) over the channels, computed at least in float32."""
    wide = to_working_dtype(h)
    scale = lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + _EPSILON)
    return (wide * scale).astype(h.dtype)
