"""Explicit models to compare with: a ResNet and a neural ODE, both at full resolution.

Both are pre-activation residual blocks (He et al., arXiv 1603.05027) between a convolution and a
linear layer: the one has blocks of their own parameters, the other follows one block through time.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.comparison.sizes import count_parameters, nearest
from mdeq_jax.vision.config import Config
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.model.layers import Conv, GroupNorm

# Widths are multiples of it; few, so that a number of parameters can be met closely.
_GROUPS = 2
_TOLERANCE = 1e-3
_MAX_STEPS = 256

_init = nn.initializers.he_normal()
_conv = functools.partial(Conv, kernel_init=_init)


class ShiftedConv(nn.Module):
    """`Conv` with a 3×3 kernel and stride 1, as nine matrix products with x shifted.

    XLA on CPU is 8 times slower at the gradient of a convolution within an ODE solver's loops,
    where its derivative is taken anew in each step, than at that of these products.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B H W O"]:
        """Return the convolution of x."""
        kernel = self.param("kernel", _init, (3, 3, x.shape[-1], self.features))
        _, height, width, _ = x.shape
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        products = (
            padded[:, i : i + height, j : j + width] @ kernel[i, j]
            for i, j in itertools.product(range(3), repeat=2)
        )
        return functools.reduce(jnp.add, products)


class ConvBlock(nn.Module):
    """conv(relu(GN(conv(relu(GN(z)))))), both convolutions 3×3 and as wide as z.

    Attributes:
      conv: makes a convolution from its output channels.
    """

    conv: Callable[..., nn.Module] = _conv

    @nn.compact
    def __call__(self, z: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Return the block's output."""
        for k in range(2):
            z = nn.relu(GroupNorm(_GROUPS, name=f"gn{k}")(z))
            z = self.conv(z.shape[-1], name=f"conv{k}")(z)
        return z


class PooledLinear(nn.Module):
    """A linear layer on the mean over the image of relu(GN(z))."""

    num_classes: int

    @nn.compact
    def __call__(self, z: Float[Array, "B H W C"]) -> Float[Array, "B num_classes"]:
        """Return the logits."""
        y = nn.relu(GroupNorm(_GROUPS, name="gn")(z)).mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="linear")(y)


class ResNet(nn.Module):
    """z ← z + block_k(z) for each block, as many as a ResNet-18 has.

    Attributes:
      width: channels throughout, even.
      num_classes: entries of the logits.
      blocks: number of blocks.
    """

    width: int
    num_classes: int
    blocks: int = 8

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B num_classes"], Float[Array, " B"]]:
        """Return the logits, and for each image the number of blocks."""
        z = _conv(self.width, name="stem")(images)
        for k in range(self.blocks):
            z = z + ConvBlock(name=f"block{k}")(z)
        logits = PooledLinear(self.num_classes, name="head")(z)
        return logits, jnp.full(len(images), float(self.blocks))


class NeuralODE(nn.Module):
    """dz/dt = block(z) from t = 0 to 1, by Tsitouras' 5(4) method with adaptive steps.

    The step size is one for the batch; where the steps do not suffice, z is NaN. Source: Chen et
    al., "Neural Ordinary Differential Equations", NeurIPS 2018.

    Attributes:
      width: channels throughout, even.
      num_classes: entries of the logits.
    """

    width: int
    num_classes: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B num_classes"], Float[Array, " B"]]:
        """Return the logits, and for each image the evaluations of the block."""
        z = _conv(self.width, name="stem")(images)
        block = ConvBlock(ShiftedConv, parent=None)

        def init(key: PRNGKeyArray) -> Any:
            return block.init(key, z[:1])["params"]

        params, evaluations = self.param("block", init), 0.0
        if not self.is_initializing():  # the way through time has no parameters
            z, evaluations = _integrate(block, z, params)
        logits = PooledLinear(self.num_classes, name="head")(z)
        return logits, jnp.full(len(images), evaluations)


def _integrate(block: ConvBlock, z: Array, params: PyTree) -> tuple[Array, Float[Array, ""]]:
    import diffrax  # for this model alone, and not among the requirements of training

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, z, params: block.apply({"params": params}, z)),
        diffrax.Tsit5(),
        t0=0.0,
        t1=1.0,
        dt0=0.1,
        y0=z,
        args=params,
        stepsize_controller=diffrax.PIDController(rtol=_TOLERANCE, atol=_TOLERANCE),
        max_steps=_MAX_STEPS,
        throw=False,
    )
    assert solution.ys is not None  # the state at t1 is saved unless asked otherwise
    z = jnp.where(diffrax.is_successful(solution.result), solution.ys[0], jnp.nan)
    # Six new stages a step: the first is the last of the step before.
    return z, 6.0 * solution.stats["num_steps"] + 1


BASELINES = {"resnet": ResNet, "neural_ode": NeuralODE}


def create_baseline(kind: str, config: Config) -> nn.Module:
    """Return a baseline with as near the number of parameters of a config's model as may be.

    Args:
      kind: "resnet" or "neural_ode".
      config: for its model, its image size and its number of classes.
    """
    size = config.data.image_size

    def sized(k: int) -> nn.Module:
        return BASELINES[kind](_GROUPS * k, config.model.num_classes)

    target = count_parameters(create_model(config.model), size)
    return sized(nearest(target, lambda k: count_parameters(sized(k), size)))
