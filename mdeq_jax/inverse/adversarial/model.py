"""An equilibrium classifier of small grey images."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mdeq_jax.layers.modules import Conv, GroupNorm, torch_bias_init, torch_init


class Classifier(nn.Module):
    """A stem, one equilibrium at half of the image's height and width, and a linear head.

        x = GN(conv(silu(conv(image))))
        z = silu(GN(conv(silu(GN(conv(z)))) + x))

    All convolutions are 3×3. silu is smooth, so the multiplier of `mdeq_jax.optimise` changes
    continuously with the perturbation.

    Attributes:
      width: number of channels of the stem and of the state.
      groups: number of groups of each GroupNorm; divides the width.
      classes: number of classes.
    """

    width: int
    groups: int
    classes: int = 10

    def setup(self) -> None:
        """Make the layers."""

        def conv(stride: int = 1, use_bias: bool = False) -> Conv:
            options = {"kernel_init": torch_init, "bias_init": torch_bias_init}
            return Conv(self.width, stride=stride, use_bias=use_bias, **options)

        self.stem, self.down = conv(use_bias=True), conv(stride=2)
        self.inner, self.outer = conv(), conv()
        self.norm_x, self.norm_inner, self.norm_outer = (GroupNorm(self.groups) for _ in range(3))
        self.linear = nn.Dense(self.classes)

    def inject(self, images: Float[Array, "B H W 1"]) -> Float[Array, "B h w C"]:
        """Return the injection x."""
        return self.norm_x(self.down(jax.nn.silu(self.stem(images))))

    def cell(
        self, z: Float[Array, "B h w C"], x: Float[Array, "B h w C"]
    ) -> Float[Array, "B h w C"]:
        """Return the cell at the state z with the injection x."""
        inner = jax.nn.silu(self.norm_inner(self.inner(z)))
        return jax.nn.silu(self.norm_outer(self.outer(inner) + x))

    def head(self, z: Float[Array, "B h w C"]) -> Float[Array, "B classes"]:
        """Return the logits of a state."""
        return self.linear(z.reshape(len(z), -1))

    def __call__(self, images: Float[Array, "B H W 1"]) -> Float[Array, "B classes"]:
        """Return the logits after one application of the cell, which touches every parameter."""
        x = self.inject(images)
        return self.head(self.cell(jnp.zeros_like(x), x))
