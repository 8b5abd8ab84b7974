"""The cell f(z, x): a residual block per resolution, then a fusion of all resolutions.

Source: Bai, Koltun, Kolter, "Multiscale Deep Equilibrium Models", NeurIPS 2020, section 3.2, and
`MDEQModule` in `lib/models/mdeq_core.py`, locuslab/deq, whose names the parameters keep.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from mdeq_jax.layers import weight_norm
from mdeq_jax.layers.modules import Conv, GroupNorm, normal_init, torch_init
from mdeq_jax.vision.model.config import ModelConfig
from mdeq_jax.vision.model.layers import ConvGN

State = tuple[Float[Array, "B H W C"], ...]
Masks = tuple[tuple[Float[Array, "B 1 1 C"], ...], ...]


class ResidualBlock(nn.Module):
    """GN3(relu(GN2(mask · conv2(relu(GN1(conv1 z))) + x) + z)).

    Attributes:
      config: the architecture.
      branch: index of the branch that the block is in.
      kernel_init: initialiser of both kernels.
    """

    config: ModelConfig
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

    config: ModelConfig
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

    config: ModelConfig
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

    config: ModelConfig

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
          masks: masks of `dropout_masks`; None applies no dropout.
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


def init_cell(key: PRNGKeyArray, config: ModelConfig) -> dict[str, Any]:
    """Return random parameters of the cell, float32; weight-normed kernels as g and v."""
    sides = [2 ** (config.num_branches - 1 - i) for i in range(config.num_branches)]
    widths = config.branch_channels
    z = tuple(
        jax.ShapeDtypeStruct((1, n, n, c), jnp.float32) for n, c in zip(sides, widths, strict=True)
    )
    # Flax needs only shapes. If it runs the cell nevertheless, the state has few pixels.
    params: Any = MDEQCell(config, parent=None).lazy_init(key, z, z[0])["params"]
    if not config.weight_norm:
        return params
    return weight_norm.split(params, lambda name: not name.startswith("fuse_layers"))


def dropout_masks(
    key: PRNGKeyArray,
    config: ModelConfig,
    batch: int,
    dtype: jnp.dtype,
    axis_name: str | None = None,
) -> Masks:
    """Draw the masks of variational dropout, one (batch, 1, 1, C) for each residual block.

    An entry is 1 / (1 − p) with probability 1 − p and otherwise 0, with p = config.dropout.

    Args:
      key: the random key, the same on all devices.
      config: the architecture.
      batch: number of images, on one device.
      dtype: dtype of the masks.
      axis_name: mesh axis over which the images are split. Each device draws the masks of all
        images and keeps its own, so that an image's masks do not depend on the number of devices.
    """
    keep = 1 - config.dropout
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    first = 0 if axis_name is None else lax.axis_index(axis_name) * batch

    def draw(key: PRNGKeyArray, channels: int) -> Array:
        kept = jax.random.bernoulli(key, keep, (devices * batch, 1, 1, channels))
        return lax.dynamic_slice_in_dim(kept, first, batch).astype(dtype) / keep

    return tuple(
        tuple(draw(k, channels) for k in jax.random.split(jax.random.fold_in(key, i), blocks))
        for i, (channels, blocks) in enumerate(
            zip(config.branch_channels, config.blocks_per_branch, strict=True)
        )
    )
