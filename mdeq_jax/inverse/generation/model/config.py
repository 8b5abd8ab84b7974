"""The architecture of the generator, checked when it is created."""

import dataclasses
from typing import Literal

import jax

from mdeq_jax.checks import require, require_int

_CHOICES = {"latents": ("optimised", "encoded"), "output": ("sigmoid", "tanh")}
_MINIMUM = {"latent_size": 1, "expansion": 1, "num_groups": 2, "encoder_width": 1}


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of the generator.

    Attributes:
      latents: where latent codes come from. "optimised": a code is the x with the lowest
        reconstruction error, found together with its equilibrium. "encoded": an encoder returns
        mean and variance of a code, as in a variational autoencoder; the generator is the same.
      latent_size: number of entries of a latent code.
      branch_channels: per branch, number of channels of the state, the highest resolution first.
      expansion: inner width of a residual block, as a multiple of its branch's channels.
      num_groups: number of groups of GroupNorm, even; the GroupNorms after the fusion and in the
        upsampling part have half as many.
      weight_norm: whether the blocks and the convolutions after the fusion are weight-normed.
      upsampling: how often the part with two transposed convolutions doubles the sides of the
        image, 0 to 2; None leaves this part out.
      output: the last function: "sigmoid", or "tanh" as the originals have it, whose range (−1, 1)
        is mapped to (0, 1).
      encoder_width: number of channels of the encoder's first convolution; later ones have twice as
        many. Only "encoded" has an encoder.

    Examples:
      >>> ModelConfig(branch_channels=(12, 16))
      Traceback (most recent call last):
      ValueError: ModelConfig.branch_channels is (12, 16); it must be a list of multiples of ...
    """

    latents: Literal["optimised", "encoded"] = "optimised"
    latent_size: int = 16
    branch_channels: tuple[int, ...] = (16, 16)
    expansion: int = 2
    num_groups: int = 8
    weight_norm: bool = True
    upsampling: int | None = None
    output: Literal["sigmoid", "tanh"] = "sigmoid"
    encoder_width: int = 32

    def __post_init__(self):
        """Check every field; raises ValueError that names the field, its value and the remedy."""
        require(
            self, "latents", self.latents in ("optimised", "encoded"), "'optimised' or 'encoded'"
        )
        require(self, "output", self.output in ("sigmoid", "tanh"), "'sigmoid' or 'tanh'")
        for field, minimum in _MINIMUM.items():
            require_int(self, field, minimum)
        require(self, "num_groups", self.num_groups % 2 == 0, "even")
        require(self, "upsampling", self.upsampling in (None, 0, 1, 2), "0, 1, 2 or None")
        fits = all(width > 0 and width % self.num_groups == 0 for width in self.branch_channels)
        allowed = f"a list of multiples of num_groups, {self.num_groups}, at least one"
        require(self, "branch_channels", bool(self.branch_channels) and fits, allowed)
        object.__setattr__(self, "branch_channels", tuple(self.branch_channels))

    @property
    def blocks_per_branch(self) -> tuple[int, ...]:
        """Per branch, number of residual blocks: one."""
        return (1,) * len(self.branch_channels)

    @property
    def big_kernels(self) -> tuple[int, ...]:
        """Per branch, number of 5×5 convolutions of a block: none."""
        return (0,) * len(self.branch_channels)

    @property
    def block_gn_affine(self) -> bool:
        """Whether GroupNorm has scale and bias in the blocks: it has."""
        return True

    @property
    def fuse_gn_affine(self) -> bool:
        """Whether GroupNorm has scale and bias in the fusion: it has."""
        return True

    @property
    def post_gn_affine(self) -> bool:
        """Whether GroupNorm has scale and bias after the fusion: it has."""
        return True

    @property
    def size_divisor(self) -> int:
        """The number by which the height and the width of an image must be divisible."""
        return 2 ** ((self.upsampling or 0) + len(self.branch_channels) - 1)
