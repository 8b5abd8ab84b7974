"""ResNets of the usual depths (He et al., CVPR 2016), for comparison."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class _Block(nn.Module):
    """A basic block of two 3×3 convolutions, or a bottleneck 1×1, 3×3, 1×1 four times as wide."""

    width: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W D"]:
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        conv = functools.partial(nn.Conv, use_bias=False)
        out = self.width * (4 if self.bottleneck else 1)
        stride = (self.stride, self.stride)
        if self.bottleneck:
            h = nn.relu(norm()(conv(self.width, (1, 1))(x)))
            h = nn.relu(norm()(conv(self.width, (3, 3), stride)(h)))
            h = norm()(conv(out, (1, 1))(h))
        else:
            h = nn.relu(norm()(conv(self.width, (3, 3), stride)(x)))
            h = norm()(conv(out, (3, 3))(h))
        if x.shape != h.shape:
            x = norm()(conv(out, (1, 1), stride)(x))
        return nn.relu(h + x)


class ResNet(nn.Module):
    """A ResNet; images of 64 pixels or less get CIFAR's stem, one 3×3 convolution.

    Attributes:
      depth: 18, 50 or 101.
      num_classes: number of classes.
    """

    depth: int
    num_classes: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], train: bool = False
    ) -> Float[Array, "B num_classes"]:
        """Return the logits."""
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        small = images.shape[1] <= 64
        size, stride = (3, 1) if small else (7, 2)
        x = nn.Conv(64, (size, size), (stride, stride), use_bias=False)(images)
        x = nn.relu(norm()(x))
        if not small:
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate(_BLOCKS[self.depth]):
            for block in range(blocks):
                step = 2 if stage > 0 and block == 0 else 1
                x = _Block(64 * 2**stage, step, self.depth > 18)(x, train)
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))
