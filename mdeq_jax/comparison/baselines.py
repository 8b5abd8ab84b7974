"""Explicit models to compare with: a ResNet and a neural ODE, and the config of their runs.

Both are pre-activation residual blocks (He et al., arXiv 1603.05027) at full resolution, between a
convolution and a linear layer. Each block of the ResNet has its own parameters. The neural ODE
follows one block through time (Chen et al., "Neural Ordinary Differential Equations", 2018).
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

from flax import linen as nn
from jaxtyping import Array, Float

from mdeq_jax.checks import require, require_int
from mdeq_jax.layers.modules import Conv, GroupNorm
from mdeq_jax.vision import config as vision

# Small, so that some width comes close to any number of parameters.
GROUPS = 2

_init = nn.initializers.he_normal()


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """An explicit model.

    Attributes:
      kind: "resnet" or "neural_ode".
      width: number of channels of every block, a multiple of 2.
      depth: number of blocks of "resnet", number of Runge-Kutta steps of "neural_ode"; at least 1.
      num_classes: number of classes, at least 1.
    """

    task: ClassVar[str] = "classification"
    extra_heads: ClassVar[tuple[str, ...]] = ()

    kind: Literal["resnet", "neural_ode"] = "resnet"
    width: int = 32
    depth: int = 8
    num_classes: int = 10

    def __post_init__(self):
        """Check the options; raises ValueError."""
        for field in ("depth", "num_classes"):
            require_int(self, field, minimum=1)
        require_int(self, "width", minimum=GROUPS)
        require(self, "width", self.width % GROUPS == 0, f"a multiple of {GROUPS}")

    @property
    def block_evaluations(self) -> int:
        """The number of times that a pass over an image evaluates a block."""
        return self.depth if self.kind == "resnet" else 4 * self.depth


@dataclasses.dataclass(frozen=True)
class Config(vision.Config):
    """The config of a run of an explicit model: the keys of the vision config with another model.

    Attributes:
      app: "baseline".
      model: the explicit model.
    """

    app: Literal["baseline"] = "baseline"  # pyright: ignore[reportIncompatibleVariableOverride]
    model: ModelConfig = ModelConfig()  # pyright: ignore[reportIncompatibleVariableOverride]


class ConvBlock(nn.Module):
    """conv(relu(GN(conv(relu(GN(z)))))), both convolutions 3×3 and as wide as z."""

    @nn.compact
    def __call__(self, z: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Return the block's output."""
        for k in range(2):
            z = nn.relu(GroupNorm(GROUPS, name=f"gn{k}")(z))
            z = Conv(z.shape[-1], kernel_init=_init, name=f"conv{k}")(z)
        return z


class ExplicitModel(nn.Module):
    """A convolution, residual blocks or one block followed through time, and a linear layer.

    "resnet" is z ← z + block_k(z) for each block; "neural_ode" is dz/dt = block(z) from t = 0 to 1.

    Attributes:
      config: the architecture.
      dtype: dtype of all layers except the last; None is the dtype of images and parameters.
    """

    config: ModelConfig
    dtype: str | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B num_classes"]:
        """Return the logits of normalised images."""
        config, dtype = self.config, self.dtype or images.dtype
        z = Conv(config.width, kernel_init=_init, name="stem")(images.astype(dtype))
        if config.kind == "resnet":
            for k in range(config.depth):
                z = z + ConvBlock(name=f"block{k}")(z)
        else:
            z = runge_kutta(ConvBlock(name="block"), z, config.depth)
        y = nn.relu(GroupNorm(GROUPS, name="gn")(z)).mean(axis=(1, 2))
        return nn.Dense(config.num_classes, name="linear")(y.astype(images.dtype))


def runge_kutta(f: Callable[[Array], Array], z: Array, steps: int) -> Array:
    """Return z(1) of dz/dt = f(z), from z(0) = z, by equal steps of the classic method of order 4.

    The steps are equal because loops of adaptive solvers (diffrax 0.7) cannot be traced under
    `jax.shard_map`, which every training step uses.

    Args:
      f: the vector field.
      z: the state at t = 0, floating point of any shape.
      steps: number of steps, at least 1.
    """
    h = 1 / steps
    for _ in range(steps):
        k1 = f(z)
        k2 = f(z + h / 2 * k1)
        k3 = f(z + h / 2 * k2)
        k4 = f(z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z
