"""The architecture of a flow model, checked when it is created."""

import dataclasses
from typing import Any, Literal, Self, get_args

import jax

from mdeq_jax.checks import require, require_int, require_one_of

Published = Literal["tiny", "base", "large", "huge", "gigantic"]

# Pixels of an image for one of the state, along each side.
FACTOR = 8

_INTEGERS = ("features", "hidden", "head", "mask", "levels", "radius")
_SWITCHES = ("weight_norm", "attention", "detach_flow")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Widths and switches of DEQ-Flow; the defaults are its base model.

    Attributes:
      encoder: widths of the three stages of both encoders, at 1/2, 1/4 and 1/8 of the resolution.
      features: width of the features that are correlated.
      hidden: width of the hidden state and of the context; at least 2.
      correlation: widths of the motion encoder's two convolutions of the correlation.
      flow: widths of the motion encoder's two convolutions of the flow.
      motion: width of the motion features, of which two channels are the flow; at least 3.
      head: width inside the flow head.
      mask: width inside the head that predicts the weights of the upsampling.
      levels: number of levels of the correlation pyramid.
      radius: radius r of the window of (2r + 1)² correlations that is looked up in each level.
      weight_norm: whether the convolutions of the cell are weight-normed.
      attention: whether motion features are aggregated by attention over all pixels, as in GMA.
      detach_flow: whether the cell's input flow is cut out of the gradient. The gradient then
        reaches earlier steps by the hidden state only. True is DEQ-Flow without ``--all_grad``.

    Examples:
      >>> ModelConfig() == ModelConfig.published("base")
      True
      >>> ModelConfig(encoder=(16, 24))
      Traceback (most recent call last):
      ValueError: ModelConfig.encoder is (16, 24); it must be a tuple of 3 whole numbers above 0.
    """

    encoder: tuple[int, ...] = (64, 96, 128)
    features: int = 256
    hidden: int = 128
    correlation: tuple[int, ...] = (256, 192)
    flow: tuple[int, ...] = (128, 64)
    motion: int = 128
    head: int = 256
    mask: int = 256
    levels: int = 4
    radius: int = 4
    weight_norm: bool = True
    attention: bool = False
    detach_flow: bool = True

    def __post_init__(self):
        """Check every field; raises ValueError that names the field, its value and the remedy."""
        for field, length in {"encoder": 3, "correlation": 2, "flow": 2}.items():
            fits = _is_widths(getattr(self, field), length)
            require(self, field, fits, f"a tuple of {length} whole numbers above 0")
        for field in _INTEGERS:
            require_int(self, field, 1)
        require_int(self, "hidden", 2)
        require_int(self, "motion", 3)
        for field in _SWITCHES:
            require(self, field, isinstance(getattr(self, field), bool), "True or False")

    @classmethod
    def published(cls, name: Published) -> Self:
        """Return the architecture of a published model, of DEQ-Flow's version 2.0.

        Version 1.0 has `head` 256 in its larger models; its base model is the same.

        Args:
          name: "tiny", "base", "large", "huge" or "gigantic".

        Raises:
          ValueError: there is no published model of this name.

        Examples:
          >>> ModelConfig.published("huge").hidden
          256
        """
        require_one_of("name", name, get_args(Published))
        features, hidden, *motion_encoder, motion = _PUBLISHED[name]
        return cls(
            features=features,
            hidden=hidden,
            correlation=tuple(motion_encoder[:2]),
            flow=tuple(motion_encoder[2:]),
            motion=motion,
            head=2 * motion,
        )

    @property
    def smallest_side(self) -> int:
        """Smallest height and width of images, at which the last level has one pixel."""
        return FACTOR * 2 ** (self.levels - 1)


# Widths: features, hidden, the two of `correlation`, the two of `flow`, motion.
# Source: code.v.2.0/core/deq_flow.py and update.py of locuslab/deq-flow.
_PUBLISHED: dict[Published, tuple[int, ...]] = {
    "tiny": (64, 32, 64, 48, 32, 16, 32),
    "base": (256, 128, 256, 192, 128, 64, 128),
    "large": (256, 192, 384, 288, 192, 96, 192),
    "huge": (256, 256, 512, 384, 256, 128, 256),
    "gigantic": (256, 384, 640, 480, 320, 160, 320),
}


def _is_widths(value: Any, length: int) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == length
        and all(isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in value)
    )
