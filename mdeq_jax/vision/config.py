"""The configuration of a run of MDEQ on images: classification and segmentation.

A config file returns a `ml_collections.ConfigDict` that starts from `default_config()` and changes
some keys. The command line overrides it. `finalize` turns the result into a `Config`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ml_collections import ConfigDict

from mdeq_jax.checks import require, require_int, require_share
from mdeq_jax.training import config as run_config
from mdeq_jax.training.config import RunConfig, override
from mdeq_jax.training.config_files import config_file, load_config
from mdeq_jax.training.sections import from_mapping, to_config_dict
from mdeq_jax.vision.model.config import ModelConfig

__all__ = [
    "IGNORE",
    "MAY_CHANGE_ON_RESUME",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "LossConfig",
    "ModelConfig",
    "config_file",
    "default_config",
    "finalize",
    "load_config",
    "override",
]

IGNORE = 255
"""The label of pixels that count neither in a loss nor in a metric."""

MAY_CHANGE_ON_RESUME = (
    *run_config.MAY_CHANGE_ON_RESUME,
    "data.dir",
    "data.root",
    "data.eval_image_size",
    "inference",
)
"""Keys, and sections of keys, that may have other values when a run is resumed.

They say where files lie, how data are read, what is logged and saved, how the model is evaluated,
what a fresh run starts from, and what happens in a step whose loss is not finite. None of them
changes any other training step.
"""


@dataclasses.dataclass(frozen=True)
class DataConfig(run_config.DataConfig):
    """The data set, and how it is read and augmented.

    Attributes:
      name: name of the data set.
      dir: folder of TFDS data sets; None for TFDS's default (TFDS_DATA_DIR).
      root: folder of your own files for "folder" and "seg_folder", and of the extracted archives
        for "cityscapes"; None reads "cityscapes" through TFDS.
      image_size: (height, width) of training images, or of the crops of them.
      eval_image_size: (height, width) in evaluation. For "imagenet2012" and "folder" it is the size
        of the crop from the middle of an image; None is `image_size`. For segmentation it is the
        size that images are padded to; None is the size of the data set's own images, or of the
        largest image if sizes differ.
      augment: whether training images are augmented.
      colour_jitter: strength s of the colour augmentation of "imagenet2012" and "folder", at least
        0: brightness, contrast and saturation are each changed by a factor in 1 ± s.
    """

    name: str = "digits"
    dir: str | None = None
    root: str | None = None
    image_size: tuple[int, ...] = (8, 8)
    eval_image_size: tuple[int, ...] | None = None
    augment: bool = True
    colour_jitter: float = 0.0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        for field in ("image_size", "eval_image_size"):
            size = getattr(self, field)
            two_sides = size is None or (len(size) == 2 and min(size) > 0)
            require(self, field, two_sides, "a height and a width, both at least 1")
        require(self, "colour_jitter", self.colour_jitter >= 0, "at least 0")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The loss of segmentation: the class-weighted mean over all pixels, or over the hard pixels.

    Attributes:
      class_weights: one weight per class, at least 0 and not all 0; None weighs all classes alike.
      ohem: whether to mine hard examples online: the loss is then the mean over the hard pixels of
        each device's share of the batch. A pixel is hard if the probability of its label is below
        `ohem_threshold`.
      ohem_threshold: probability of its label below which a pixel is hard, in (0, 1].
      ohem_min_kept: number of pixels, at least 1. If fewer pixels would be hard, the threshold is
        raised.
      classification_weight: weight of the loss of the head "classification" of
        `model.extra_heads`, at least 0.
      scale_weight: weight of the loss of each branch of the head "scales" of `model.extra_heads`,
        at least 0.
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


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """Test-time augmentation of segmentation; by default one pass over the image.

    Attributes:
      flip: whether the logits are averaged with those of the mirrored image.
      scales: factors of both sides of the image, each above 0; exp(logits) is summed over them.
      window: (height, width) of the windows that the image is cut into at scales above 1; None
        takes the image at once.
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
        """Whether evaluation takes one pass over each image at its own size, without mirroring."""
        return not self.flip and self.scales == (1.0,)


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The config of a run of MDEQ on images: the keys of `RunConfig`, and these.

    Attributes:
      app: "vision".
      model: the architecture.
      data: the data set, and how it is read and augmented.
      loss: the loss of segmentation.
      inference: test-time augmentation in evaluation and prediction, for segmentation.
    """

    may_change_on_resume: ClassVar[tuple[str, ...]] = MAY_CHANGE_ON_RESUME

    app: Literal["vision"] = "vision"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    inference: InferenceConfig = InferenceConfig()

    def __post_init__(self):
        """Check what concerns more than one section; raises ValueError."""
        super().__post_init__()
        weights, classes = self.loss.class_weights, self.model.num_classes
        if weights is not None and len(weights) != classes:
            raise ValueError(
                f"config.loss.class_weights has {len(weights)} entries, but "
                f"config.model.num_classes is {classes}; give one weight per class."
            )
        for section, default in (("loss", LossConfig()), ("inference", InferenceConfig())):
            if self.model.task != "segmentation" and getattr(self, section) != default:
                raise ValueError(
                    f"config.{section} is {getattr(self, section)}, which is for segmentation, but "
                    f"config.model.task is {self.model.task!r}; leave it out."
                )
        for head, field in (
            ("classification", "classification_weight"),
            ("scales", "scale_weight"),
        ):
            weight = getattr(self.loss, field)
            if head not in self.model.extra_heads and weight != getattr(LossConfig(), field):
                raise ValueError(
                    f"config.loss.{field} is {weight}, but config.model.extra_heads is "
                    f"{self.model.extra_heads}; add {head!r} to it or leave the weight out."
                )


def default_config() -> ConfigDict:
    """Return every key with its default, for a config file to start from."""
    return to_config_dict(Config())


def finalize(config: ConfigDict | Mapping[str, Any]) -> Config:
    """Check a config and freeze it.

    `mdeq_jax.applications.finalize` does the same for a config of any application.

    Args:
      config: nested mapping with keys of `Config`; a key that it lacks has its default.

    Raises:
      ValueError: a key is unknown, or its value has the wrong type or is out of range; the message
        gives the full key.

    Examples:
      >>> finalize({"solver": {"forward": {"max_steps": 6}}}).solver.forward.max_steps
      6
      >>> finalize({"solver": {"forward": {"max_step": 6}}})
      Traceback (most recent call last):
      ValueError: config.solver.forward.max_step is not a config key. Did you mean ...max_steps?
    """
    return from_mapping(Config(), config)
