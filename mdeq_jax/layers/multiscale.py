"""The cell f(z, x): a residual block per resolution, then a fusion of all resolutions.

Source: Bai, Koltun, Kolter, "Multiscale Deep Equilibrium Models", NeurIPS 2020, section 3.2, and
`MDEQModule` in `lib/models/mdeq_core.py`, locuslab/deq, whose names the parameters keep.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jaxtyping import Array, Float, PRNGKeyArray

from mdeq_jax.layers import weight_norm
from mdeq_jax.layers.modules import Conv, ConvGN, GroupNorm, normal_init, torch_init

State = tuple[Float[Array, "B H W C"], ...]
Masks = tuple[tuple[Float[Array, "B 1 1 C"], ...], ...]


class CellConfig(Protocol):
    """The architecture of a cell; a field "per branch" has one entry for each resolution."""

    @property
    def branch_channels(self) -> tuple[int, ...]:
        """Per branch, number of channels of the state, the highest resolution first."""
        ...

    @property
    def blocks_per_branch(self) -> tuple[int, ...]:
        """Per branch, number of residual blocks."""
        ...

    @property
    def big_kernels(self) -> tuple[int, ...]:
        """Per branch, how many of a block's two convolutions are 5×5 rather than 3×3."""
        ...

    @property
    def expansion(self) -> int:
        """Inner width of a block, as a multiple of its branch's channels."""
        ...

    @property
    def num_groups(self) -> int:
        """Number of groups of every GroupNorm; those after the fusion have half as many."""
        ...

    @property
    def weight_norm(self) -> bool:
        """Whether the blocks and the convolutions after the fusion are weight-normed."""
        ...

    @property
    def block_gn_affine(self) -> bool:
        """Whether GroupNorm has scale and bias in the blocks."""
        ...

    @property
    def fuse_gn_affine(self) -> bool:
        """Whether GroupNorm has scale and bias in the fusion."""
        ...

    @property
    def post_gn_affine(self) -> bool:
        """Whether GroupNorm has scale and bias after the fusion."""
        ...


class ResidualBlock(nn.Module):
    """GN3(relu(GN2(mask · conv2(relu(GN1(conv1 z))) + x) + z)).

    Attributes:
      config: the architecture.
      branch: index of the branch that the block is in.
      kernel_init: initialiser of both kernels.
    """

    config: CellConfig
    branch: int
    kernel_init: Initializer

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "B H W C"],
        x: Float[Array, "B H W C"] | None,
        mask: Float[Array, "B 1 1 C"] | None,
    ) -> Float[Array, "B H W C"]:
        """Return the block's output for z, with injection x and dropout mask if given."""
        channels = z.shape[-1]
        groups, affine = self.config.num_groups, self.config.block_gn_affine
        size1, size2 = (5 if self.config.big_kernels[self.branch] > k else 3 for k in range(2))
        inner = self.config.expansion * channels
        h = Conv(inner, size1, kernel_init=self.kernel_init, name="conv1")(z)
        h = nn.relu(GroupNorm(groups, affine, name="gn1")(h))
        h = Conv(channels, size2, kernel_init=self.kernel_init, name="conv2")(h)
        if mask is not None:
            h = mask * h
        if x is not None:
            h = h + x
        h = GroupNorm(groups, affine, name="gn2")(h) + z
        return GroupNorm(groups, affine, name="gn3")(nn.relu(h))


class Downsample(nn.Module):
    """Stride-2 convolutions with GroupNorm from one branch to a lower resolution, ReLU in between.

    Attributes:
      config: the architecture.
      source: index of the branch that is the input.
      target: index of the branch that it is fused into, above `source`.
    """

    config: CellConfig
    source: int
    target: int

    @nn.compact
    def __call__(self, z: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        """Return z at the resolution and width of the target."""
        groups, affine = self.config.num_groups, self.config.fuse_gn_affine
        times = self.target - self.source
        for k in range(times):
            last = k == times - 1
            width = self.config.branch_channels[self.target] if last else z.shape[-1]
            z = ConvGN(width, 3, groups, affine, stride=2, name=f"net_{k}")(z)
            z = z if last else nn.relu(z)
        return z


class Upsample(nn.Module):
    """A 1×1 convolution with GroupNorm, then nearest-neighbour upsampling.

    Attributes:
      config: the architecture.
      source: index of the branch that is the input.
      target: index of the branch that it is fused into, below `source`.
    """

    config: CellConfig
    source: int
    target: int

    @nn.compact
    def __call__(self, z: Float[Array, "B h w c"]) -> Float[Array, "B H W C"]:
        """Return z at the resolution and width of the target."""
        width = self.config.branch_channels[self.target]
        z = ConvGN(width, 1, self.config.num_groups, self.config.fuse_gn_affine, name="net")(z)
        times = 2 ** (self.source - self.target)
        return z.repeat(times, axis=1).repeat(times, axis=2)


class MDEQCell(nn.Module):
    """One application of f to a state of all resolutions.

    Attributes:
      config: the architecture.
    """

    config: CellConfig

    @nn.compact
    def __call__(
        self,
        z: State,
        x: Float[Array, "B H W C"],
        masks: Masks | None = None,
        lower: State = (),
    ) -> State:
        """Return f(z, x).

        Args:
          z: one array per branch, with half the height and width of the previous branch.
          x: injected into the first block of branch 0.
          masks: for each block of each branch, factors (B, 1, 1, C) of what its second convolution
            returns; None applies none.
          lower: injections into the first blocks of branches 1, 2, ...; none by default.
        """
        injected = dict(enumerate((x, *lower)))
        h = tuple(self._blocks(i, z[i], injected.get(i), masks) for i in range(len(z)))
        if len(z) == 1:
            return h
        return tuple(self._fuse(i, h) for i in range(len(z)))

    @nn.nowrap
    def _blocks(self, i: int, z: Array, x: Array | None, masks: Masks | None) -> Array:
        for j in range(self.config.blocks_per_branch[i]):
            block = ResidualBlock(self.config, i, self._init(), name=f"branches_{i}_blocks_{j}")
            z = block(z, x if j == 0 else None, None if masks is None else masks[i][j])
        return z

    @nn.nowrap
    def _fuse(self, i: int, h: State) -> Array:
        total = h[i]
        for j in range(len(h)):
            if j != i:
                path = Upsample if j > i else Downsample
                total = total + path(self.config, j, i, name=f"fuse_layers_{i}_{j}")(h[j])
        post = ConvGN(
            self.config.branch_channels[i],
            1,
            self.config.num_groups // 2,
            self.config.post_gn_affine,
            kernel_init=self._init(),
            name=f"post_fuse_layers_{i}",
        )
        return post(nn.relu(total))

    @nn.nowrap
    def _init(self) -> Initializer:
        # The originals start weight-normed kernels with PyTorch's default.
        return torch_init if self.config.weight_norm else normal_init


def init_cell(key: PRNGKeyArray, config: CellConfig) -> dict[str, Any]:
    """Return random parameters of the cell, float32; weight-normed kernels as g and v."""
    widths = config.branch_channels
    sides = [2**i for i in reversed(range(len(widths)))]
    z = tuple(
        jax.ShapeDtypeStruct((1, n, n, c), jnp.float32) for n, c in zip(sides, widths, strict=True)
    )
    # Flax needs only shapes. If it runs the cell nevertheless, the state has few pixels.
    params: Any = MDEQCell(config, parent=None).lazy_init(key, z, z[0])["params"]
    if not config.weight_norm:
        return params
    return weight_norm.split(params, lambda name: not name.startswith("fuse_layers"))
