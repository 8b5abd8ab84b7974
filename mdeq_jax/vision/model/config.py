"""The architecture of a multiscale deep equilibrium model, checked when it is created."""

import dataclasses
from typing import Literal

import jax

from mdeq_jax.checks import require, require_int, require_number

_MINIMUM = {
    "num_classes": 1,
    "expansion": 1,
    "num_groups": 1,
    "downsample_times": 0,
    "final_channels": 1,
    "final_conv_kernel": 1,
}
_BRANCH_MINIMUM = {
    "branch_channels": 1,
    "blocks_per_branch": 1,
    "big_kernels": 0,
    "head_channels": 1,
}
_EXTRA_HEADS = ("classification", "scales")
_SWITCHES = ("weight_norm", "block_gn_affine", "fuse_gn_affine", "post_gn_affine")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of MDEQ (arXiv 2006.08656); the defaults are the originals' CIFAR tiny.

    A field "per branch" has one entry for each resolution, the highest first; lists become tuples.

    Attributes:
      task: "classification" or "segmentation". It chooses the head, and the momentum of BatchNorm
        in head and stem.
      num_classes: number of classes.
      branch_channels: per branch, number of channels of the state. The first entry is also the
        width of the stem.
      blocks_per_branch: per branch, number of residual blocks.
      big_kernels: per branch, how many of a block's two convolutions are 5×5 rather than 3×3.
      expansion: inner width of a block, as a multiple of its branch's channels.
      num_groups: number of groups of every GroupNorm; the GroupNorms after the fusion have half as
        many.
      downsample_times: how often the stem halves the sides of the image.
      injection: "highest" injects the stem's output into the highest resolution only. "all" injects
        it into every resolution, pooled and through a 1×1 convolution.
      weight_norm: whether the blocks and the convolutions after the fusion are weight-normed.
      block_gn_affine: whether GroupNorm has scale and bias in the blocks.
      fuse_gn_affine: whether GroupNorm has scale and bias in the fusion.
      post_gn_affine: whether GroupNorm has scale and bias after the fusion.
      head_channels: per branch, inner width of the classification head's bottleneck.
      final_channels: number of features that the classification head averages over the image.
      final_conv_kernel: 1 or 3, kernel of the segmentation head's last convolution.
      extra_heads: further heads of a segmentation model, for the same classes. "classification"
        classifies the whole image; "scales" classifies the pixels from each branch separately.
      dropout: probability that variational dropout zeroes a channel in a block, in [0, 1).

    Examples:
      >>> import mdeq_jax as mx
      >>> config = mx.ModelConfig(branch_channels=(32, 64), downsample_times=2)
      >>> config.size_divisor
      8
      >>> mx.ModelConfig(branch_channels=(32, 64, 128))
      Traceback (most recent call last):
      ValueError: ModelConfig.blocks_per_branch is (1, 1); it must be a list of 3 entries, one ...
    """

    task: Literal["classification", "segmentation"] = "classification"
    num_classes: int = 10
    branch_channels: tuple[int, ...] = (24, 24)
    blocks_per_branch: tuple[int, ...] = (1, 1)
    big_kernels: tuple[int, ...] = (0, 0)
    expansion: int = 5
    num_groups: int = 8
    downsample_times: int = 0
    injection: Literal["highest", "all"] = "highest"
    weight_norm: bool = True
    block_gn_affine: bool = True
    fuse_gn_affine: bool = True
    post_gn_affine: bool = False
    head_channels: tuple[int, ...] = (8, 16)
    final_channels: int = 200
    final_conv_kernel: int = 1
    extra_heads: tuple[Literal["classification", "scales"], ...] = ()
    dropout: float = 0.0

    def __post_init__(self):
        """Check every field; raises ValueError that names the field, its value and the remedy."""
        self._check_values()
        self._check_extra_heads()
        self._check_branches()
        self._check_groups()

    @property
    def num_branches(self) -> int:
        """Number of resolutions."""
        return len(self.branch_channels)

    @property
    def size_divisor(self) -> int:
        """The number by which the height and the width of an image must be divisible."""
        return 2 ** (self.downsample_times + self.num_branches - 1)

    @property
    def batch_norm_momentum(self) -> float:
        """Share of the running statistics that BatchNorm keeps at a training step."""
        return 0.9 if self.task == "classification" else 0.99

    def _check_values(self) -> None:
        tasks = ("classification", "segmentation")
        require(self, "task", self.task in tasks, " or ".join(map(repr, tasks)))
        require(self, "injection", self.injection in ("highest", "all"), "'highest' or 'all'")
        for field, minimum in _MINIMUM.items():
            require_int(self, field, minimum)
        for field in _SWITCHES:
            require(self, field, isinstance(getattr(self, field), bool), "True or False")
        require(self, "final_conv_kernel", self.final_conv_kernel in (1, 3), "1 or 3")
        require_number(self, "dropout", lambda x: 0 <= x < 1, "in [0, 1)")

    def _check_extra_heads(self) -> None:
        heads = self.extra_heads
        known = isinstance(heads, list | tuple) and all(head in _EXTRA_HEADS for head in heads)
        allowed = f"a list of {' or '.join(map(repr, _EXTRA_HEADS))}, each once"
        require(self, "extra_heads", known and len({*heads}) == len(heads), allowed)
        object.__setattr__(self, "extra_heads", tuple(heads))
        fits = not heads or self.task == "segmentation"
        require(self, "extra_heads", fits, f"empty where task is {self.task!r}")

    def _check_branches(self) -> None:
        for field, minimum in _BRANCH_MINIMUM.items():
            value = getattr(self, field)
            holds = isinstance(value, list | tuple) and all(
                isinstance(n, int) and not isinstance(n, bool) and n >= minimum for n in value
            )
            allowed = f"a list of whole numbers of at least {minimum}, one per branch"
            require(self, field, holds, allowed)
            object.__setattr__(self, field, tuple(value))
        require(self, "branch_channels", self.num_branches > 0, "a list of at least one width")
        for field in _BRANCH_MINIMUM:
            if field == "head_channels" and "classification" not in (self.task, *self.extra_heads):
                continue
            allowed = (
                f"a list of {self.num_branches} entries, one per branch, since "
                f"branch_channels is {self.branch_channels!r}"
            )
            require(self, field, len(getattr(self, field)) == self.num_branches, allowed)

    def _check_groups(self) -> None:
        # Widths inside the blocks and the fusion are multiples of a branch's width, or equal to it.
        widths = self.branch_channels
        if any(width % self.num_groups for width in widths):
            raise ValueError(
                f"ModelConfig.num_groups is {self.num_groups}, which does not divide every width "
                f"in branch_channels {widths}; change num_groups or the widths."
            )
        half = self.num_groups // 2
        if self.num_branches > 1 and (half == 0 or any(width % half for width in widths)):
            raise ValueError(
                f"ModelConfig.num_groups is {self.num_groups}, so that GroupNorm after the fusion "
                f"has num_groups // 2 = {half} groups; these must be at least 1 and divide every "
                f"width in branch_channels {widths}: take an even num_groups."
            )
