"""The encoders of DEQ-Flow: images to features at an eighth of the resolution.

Source: code.v.2.0/core/extractor.py of locuslab/deq-flow, which is RAFT's.
"""

from typing import Literal

from flax import linen as nn
from jaxtyping import Array, Float

from mdeq_jax.layers.modules import Conv, GroupNorm, torch_bias_init

Norm = Literal["instance", "batch"]

_EPSILON = 1e-5
_MOMENTUM = 0.9

# Kaiming's, N(0, 2 / fan_out).
_encoder_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Encoder(nn.Module):
    """A residual network whose output has an eighth of the height and width.

        conv 7×7, stride 2 → two blocks → two blocks, stride 2 → two blocks, stride 2 → conv 1×1

    Attributes:
      widths: number of channels of the three stages.
      features: number of output channels.
      norm: "instance" is instance normalisation without parameters. "batch" is BatchNorm.
      axis_name: mesh axis over which a training step averages BatchNorm's statistics.
    """

    widths: tuple[int, ...]
    features: int
    norm: Norm
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w D"]:
        """Return the features; with `train`, BatchNorm uses the batch's statistics.

        Args:
          x: images, values in [−1, 1]; sides divisible by 8.
          train: whether BatchNorm uses and updates the statistics of the batch.
        """
        norm, axis_name = self.norm, self.axis_name
        x = nn.relu(ConvNorm(self.widths[0], 7, norm, 2, axis_name, name="conv1")(x, train))
        for i, width in enumerate(self.widths):
            for j in range(2):
                stride = 2 if i > 0 and j == 0 else 1
                block = ResidualBlock(width, norm, stride, axis_name, name=f"layer{i + 1}_{j}")
                x = block(x, train)
        return _conv(self.features, 1, 1, "conv2")(x)


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + relu(norm(W₂ relu(norm(W₁ x))))).

    The inner ReLU before the sum is RAFT's, and not ResNet's. The shortcut is a normalised 1×1
    convolution if the stride is above 1, and otherwise x itself.

    Attributes:
      features: number of output channels.
      norm: "instance" or "batch".
      stride: stride of W₁ and of the shortcut.
      axis_name: mesh axis over which a training step averages BatchNorm's statistics.
    """

    features: int
    norm: Norm
    stride: int = 1
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B h w O"]:
        """Return the block's output."""
        features, norm, stride, axis_name = self.features, self.norm, self.stride, self.axis_name
        y = nn.relu(ConvNorm(features, 3, norm, stride, axis_name, name="conv1")(x, train))
        y = nn.relu(ConvNorm(features, 3, norm, 1, axis_name, name="conv2")(y, train))
        if stride > 1:
            x = ConvNorm(features, 1, norm, stride, axis_name, name="shortcut")(x, train)
        return nn.relu(x + y)


class ConvNorm(nn.Module):
    """A convolution with bias, and instance normalisation or BatchNorm.

    Attributes:
      features: number of output channels.
      size: the kernel's height and width.
      norm: "instance" or "batch".
      stride: stride along height and width.
      axis_name: mesh axis over which a training step averages BatchNorm's statistics.
    """

    features: int
    size: int
    norm: Norm
    stride: int = 1
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B h w O"]:
        """Return the normalised convolution of x, in the dtype of the convolution."""
        x = _conv(self.features, self.size, self.stride, "conv")(x)
        if self.norm == "instance":
            return GroupNorm(self.features, affine=False, name="norm")(x)
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=_MOMENTUM,
            epsilon=_EPSILON,
            dtype=x.dtype,
            axis_name=self.axis_name,
            name="norm",
        )
        return norm(x)


def _conv(features: int, size: int, stride: int, name: str) -> Conv:
    return Conv(features, size, stride, True, _encoder_init, torch_bias_init, name=name)
