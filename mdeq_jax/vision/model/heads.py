"""Heads: from the equilibria of all resolutions to logits."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mdeq_jax.layers.modules import Conv
from mdeq_jax.layers.multiscale import State
from mdeq_jax.layers.resize import resize_bilinear
from mdeq_jax.solvers.norms import to_working_dtype
from mdeq_jax.vision.model.config import ModelConfig
from mdeq_jax.vision.model.layers import ConvBN

_EXPANSION = 4


class Bottleneck(nn.Module):
    """relu(BN(1×1 conv(relu(BN(3×3 conv(relu(BN(1×1 conv z))))))) + shortcut z).

    The BatchNorms have no scale and no bias. The shortcut is the identity. If widths differ, it is
    a 1×1 convolution with a BatchNorm that has both.

    Attributes:
      width: inner channels; the output has 4 times as many.
      axis_name: mesh axis over which BatchNorm averages its statistics.
    """

    width: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W D"]:
        """Return the block's output."""
        out = self.width * _EXPANSION
        h = z
        for k, (width, size) in enumerate([(self.width, 1), (self.width, 3), (out, 1)], start=1):
            h = nn.relu(h) if k > 1 else h
            layer = ConvBN(width, size, affine=False, axis_name=self.axis_name, name=f"layer{k}")
            h = layer(h, train)
        if z.shape[-1] != out:
            z = ConvBN(out, 1, axis_name=self.axis_name, name="shortcut")(z, train)
        return nn.relu(h + z)


class ClassificationHead(nn.Module):
    """A bottleneck per branch, each added into the next lower resolution, then mean and linear.

    Source: `MDEQClsNet` in `lib/models/mdeq.py`, locuslab/deq, whose names the parameters keep.

    Attributes:
      config: the architecture.
      axis_name: mesh axis over which BatchNorm averages its statistics.
    """

    config: ModelConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: State, train: bool) -> Float[Array, "B num_classes"]:
        """Return the logits."""
        axis = self.axis_name
        wide = [
            Bottleneck(width, axis, name=f"incre_modules_{i}")(z[i], train)
            for i, width in enumerate(self.config.head_channels)
        ]
        y = wide[0]
        for i, lower in enumerate(wide[1:]):
            down = ConvBN(
                lower.shape[-1],
                stride=2,
                use_bias=True,
                axis_name=axis,
                name=f"downsamp_modules_{i}",
            )
            y = lower + nn.relu(down(y, train))
        features = self.config.final_channels
        last = ConvBN(features, 1, use_bias=True, axis_name=axis, name="final_layer")
        y = nn.relu(last(y, train)).mean(axis=(1, 2))
        return nn.Dense(
            self.config.num_classes,
            kernel_init=_uniform_init(features),
            bias_init=_uniform_init(features),
            name="classifier",
        )(y)


def _uniform_init(fan_in: int) -> nn.initializers.Initializer:
    """Return PyTorch's initialiser of a linear layer's weight and bias: uniform in ±1/√fan_in."""
    bound = fan_in**-0.5

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class SegmentationHead(nn.Module):
    """Every branch resized to the highest resolution, concatenated, then two convolutions.

    Source: `MDEQSegNet` in `lib/models/mdeq.py`, locuslab/deq.

    Attributes:
      config: the architecture.
      axis_name: mesh axis over which BatchNorm averages its statistics.
    """

    config: ModelConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: State, train: bool) -> Float[Array, "B H W num_classes"]:
        """Return the logits of each pixel of the highest resolution."""
        height, width = z[0].shape[1:3]
        y = jnp.concatenate([resize_bilinear(x, (height, width)) for x in z], axis=-1)
        last = ConvBN(
            y.shape[-1],
            1,
            use_bias=True,
            momentum=self.config.batch_norm_momentum,
            axis_name=self.axis_name,
            name="last_layer",
        )
        size = self.config.final_conv_kernel
        # A name of its own, because init_from would otherwise load the classification head's last
        # layer.
        last_conv = Conv(self.config.num_classes, size, use_bias=True, name="pixel_classifier")
        return last_conv(to_working_dtype(nn.relu(last(y, train))))


class ScaleHead(nn.Module):
    """A 1×1 convolution, for an auxiliary loss on the equilibrium of one branch.

    Attributes:
      config: the architecture.
      branch: index of the branch.
    """

    config: ModelConfig
    branch: int

    @nn.compact
    def __call__(self, z: State, train: bool) -> Float[Array, "B h w num_classes"]:
        """Return the logits of each pixel of the branch."""
        del train  # the layer is the same in both modes
        last_conv = Conv(self.config.num_classes, 1, use_bias=True, name="pixel_classifier")
        return last_conv(to_working_dtype(z[self.branch]))


# The head of each task.
HEADS = {"classification": ClassificationHead, "segmentation": SegmentationHead}


def make_extra_heads(config: ModelConfig, axis_name: str | None = None) -> dict[str, nn.Module]:
    """Return the heads that `config.extra_heads` asks for, by the names of their logits.

    The names are "classification", and "scale_0", "scale_1", ... for the branches.

    Args:
      config: the architecture.
      axis_name: mesh axis over which BatchNorm averages its statistics.
    """
    heads = {}
    if "classification" in config.extra_heads:
        heads["classification"] = ClassificationHead(config, axis_name)
    if "scales" in config.extra_heads:
        heads |= {f"scale_{i}": ScaleHead(config, i) for i in range(config.num_branches)}
    return heads
