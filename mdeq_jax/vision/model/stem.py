"""The stem: from images to the injection of the cell."""

from flax import linen as nn
from jaxtyping import Array, Float

from mdeq_jax.layers.modules import Conv
from mdeq_jax.vision.model.config import ModelConfig
from mdeq_jax.vision.model.layers import ConvBN


class Stem(nn.Module):
    """At least two 3×3 convolutions with BatchNorm and ReLU, downsample_times of them of stride 2.

    A 1×1 convolution, ``stage0``, follows if the stem downsamples or there are three branches.
    Source: `MDEQNet` in `lib/models/mdeq_core.py`, locuslab/deq.

    Attributes:
      config: the architecture.
      axis_name: mesh axis over which BatchNorm averages its statistics.
    """

    config: ModelConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
        """Return the injection, sides divided by 2^downsample_times, C = branch_channels[0]."""
        times = self.config.downsample_times
        x = images
        for k in range(max(times, 2)):
            x = nn.relu(self._conv(3, 2 if k < times else 1, f"downsample_{k}")(x, train))
        if times > 0 or self.config.num_branches > 2:
            x = nn.relu(self._conv(1, 1, "stage0")(x, train))
        return x

    @nn.nowrap
    def _conv(self, size: int, stride: int, name: str) -> ConvBN:
        return ConvBN(
            self.config.branch_channels[0],
            size,
            stride,
            momentum=self.config.batch_norm_momentum,
            axis_name=self.axis_name,
            name=name,
        )


class LowerInjections(nn.Module):
    """The injections into the lower resolutions: means over squares, then a 1×1 convolution.

    Attributes:
      config: the architecture.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> tuple[Float[Array, "B _h _w _C"], ...]:
        """Return the injections into all branches after the first, given the first one's."""
        injections = []
        for i, width in enumerate(self.config.branch_channels[1:], start=1):
            pooled = nn.avg_pool(x, (2**i, 2**i), (2**i, 2**i))
            injections.append(Conv(width, 1, name=f"branch_{i}")(pooled))
        return tuple(injections)
