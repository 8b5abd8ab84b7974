"""The section of a config that says how the pixels of an image are classified in evaluation."""

import dataclasses

from mdeq_jax.checks import require


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """Test-time augmentation of segmentation; the defaults are one pass over the whole image.

    Attributes:
      flip: whether the logits are averaged with those of the mirrored image.
      scales: factors of both sides of the image; exp(logits) is summed over them.
      window: (height, width) of the pieces in which the image is seen at scales above 1; None sees
        it whole.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    window: tuple[int, ...] | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require(self, "scales", min(self.scales, default=0) > 0, "a list of numbers above 0")
        if self.window is not None:
            two_sides = len(self.window) == 2 and min(self.window) > 0
            require(self, "window", two_sides, "a height and a width, both at least 1, or None")

    @property
    def is_plain(self) -> bool:
        """Whether an image is seen once, whole and as it is."""
        return not self.flip and self.scales == (1.0,)
