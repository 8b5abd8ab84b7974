"""The layer of stem and head: convolution with BatchNorm."""

from flax import linen as nn
from jaxtyping import Array, Float

from mdeq_jax.layers.modules import Conv

_EPSILON = 1e-5


class ConvBN(nn.Module):
    """A convolution and a BatchNorm, whose statistics are at least in float32.

    Attributes:
      features: number of output channels.
      size: the kernel's height and width.
      stride: stride along height and width, at least 1.
      use_bias: whether the convolution has a bias.
      affine: whether the BatchNorm has scale and bias.
      momentum: share of the running statistics kept at a training step.
      axis_name: mesh axis over which a training step averages the statistics.
    """

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    affine: bool = True
    momentum: float = 0.9
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B H' W' O"]:
        """Return the normalised convolution of x; with `train`, the batch's statistics are used."""
        x = Conv(self.features, self.size, self.stride, self.use_bias, name="conv")(x)
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=_EPSILON,
            use_scale=self.affine,
            use_bias=self.affine,
            dtype=x.dtype,
            axis_name=self.axis_name,
            name="bn",
        )
        return norm(x)
