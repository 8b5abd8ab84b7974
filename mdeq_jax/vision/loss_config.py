"""The section of a config that says what makes up the loss of a segmentation model."""

import dataclasses

from mdeq_jax.checks import require, require_int, require_share

# The label of pixels that count neither in a loss nor in a metric.
IGNORE = 255


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The loss of segmentation: the class-weighted mean over all pixels, or over the hard ones.

    Attributes:
      class_weights: one per class, at least 0 and not all 0; None weighs all alike.
      ohem: online hard example mining: the mean over the hard pixels of each device's share of the
        batch, those whose label has a probability below a threshold.
      ohem_threshold: that threshold, in (0, 1],
      ohem_min_kept: which is raised where fewer pixels than this would be hard; at least 1.
      classification_weight: at least 0, of the loss of model.extra_heads' "classification", which
        is added,
      scale_weight: and of that of each branch of its "scales".
    """

    class_weights: tuple[float, ...] | None = None
    ohem: bool = False
    ohem_threshold: float = 0.9
    ohem_min_kept: int = 131_072
    classification_weight: float = 1.0
    scale_weight: float = 0.1

    def __post_init__(self):
        """Check the options; raises ValueError."""
        weights = self.class_weights
        if weights is not None:
            holds = min(weights, default=-1) >= 0 and max(weights) > 0
            require(self, "class_weights", holds, "a list of weights of at least 0, not all 0")
        require_share(self, "ohem_threshold")
        require_int(self, "ohem_min_kept", minimum=1)
        for field in ("classification_weight", "scale_weight"):
            require(self, field, getattr(self, field) >= 0, "at least 0")
