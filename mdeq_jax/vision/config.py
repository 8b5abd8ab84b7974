"""The configuration of a run: frozen dataclasses, and `finalize`, which checks what a user wrote.

A config file returns a `ml_collections.ConfigDict` that starts from `default_config()` and states
what differs; the command line overrides it; `finalize` turns the outcome into a `Config`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import ConfigDict

from mdeq_jax.checks import require, require_int
from mdeq_jax.training.config import DataConfig, OptimConfig, TrainConfig
from mdeq_jax.training.config_files import config_file, load_config
from mdeq_jax.training.layer_config import (
    AdjointConfig,
    CorrectionConfig,
    JacobianConfig,
    SolverConfig,
    SolversConfig,
)
from mdeq_jax.training.sections import from_mapping, to_config_dict, with_values
from mdeq_jax.vision.inference_config import InferenceConfig
from mdeq_jax.vision.loss_config import LossConfig
from mdeq_jax.vision.model.config import ModelConfig

__all__ = [
    "MAY_CHANGE_ON_RESUME",
    "AdjointConfig",
    "Config",
    "CorrectionConfig",
    "DataConfig",
    "InferenceConfig",
    "JacobianConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "SolverConfig",
    "SolversConfig",
    "TrainConfig",
    "config_file",
    "default_config",
    "finalize",
    "load_config",
    "override",
]


@dataclasses.dataclass(frozen=True)
class Config:
    """All of a run.

    Attributes:
      model: the architecture.
      solver: the forward and the backward solver.
      adjoint: where the gradient comes from.
      correction: losses on states of the solve.
      loss: of segmentation.
      data: the data set.
      optim: the optimizer.
      jacobian: regularisation of the cell's Jacobian.
      train: the course of training.
      inference: how evaluation and prediction see an image, for segmentation.
      dtype: what stem, cell and head compute in. "bfloat16" is for accelerators; parameters, the
        statistics of norms, states and history of the solvers, logits and loss stay in float32.
        Rounding leaves a relative residual of 2e-3 to 1e-2, by the model: a tolerance below 1e-2
        spends steps on nothing.
      init_from: checkpoint, or PyTorch file, whose weights a fresh run starts from as far as they
        fit; None starts from random ones. What keeps its initial value is printed. An array of the
        cell that would keep it is an error.
      init_from_allow_missing: arrays of the cell that may keep their initial values although
        `init_from` is given. Each entry is a path, such as "params/cell/post_fuse_layers_*", or a
        PyTorch name, such as "fullstage.post_fuse_layers.*"; ``*`` stands for any part.
      seed: of initialisation, shuffling, augmentation and dropout, in [0, 2³²).
    """

    model: ModelConfig = ModelConfig()
    solver: SolversConfig = SolversConfig()
    adjoint: AdjointConfig = AdjointConfig()
    correction: CorrectionConfig = CorrectionConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    jacobian: JacobianConfig = JacobianConfig()
    train: TrainConfig = TrainConfig()
    inference: InferenceConfig = InferenceConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    init_from: str | None = None
    init_from_allow_missing: tuple[str, ...] = ()
    seed: int = 0

    @property
    def compute_dtype(self) -> str | None:
        """What `create_model` takes: None where the parameters' own dtype, float32, is meant."""
        return None if self.dtype == "float32" else self.dtype

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "seed", minimum=0)
        require(self, "seed", self.seed < 2**32, "below 2**32")
        forward = self.solver.forward
        if self.adjoint.name == "shine" and (forward.name, forward.memory) != ("broyden", None):
            raise ValueError(
                "config.adjoint.name is 'shine', which reuses the whole history of Broyden's "
                f"method, but config.solver.forward is {forward.name!r} with "
                f"memory={forward.memory}; set its name to 'broyden' and its memory to None, or "
                "take another adjoint."
            )
        every = self.adjoint.opa_every
        if every is not None and every > forward.max_steps:
            raise ValueError(
                f"config.adjoint.opa_every is {every}, but the solve has at most "
                f"{forward.max_steps} steps; lower it or raise config.solver.forward.max_steps."
            )
        jitter = self.jacobian.step_jitter
        if self.jacobian.probability > 0 and jitter >= forward.max_steps:
            raise ValueError(
                f"config.jacobian.step_jitter is {jitter}, which can leave a solve of at most "
                f"{forward.max_steps} steps none; lower it or raise "
                "config.solver.forward.max_steps."
            )
        if self.correction.states > forward.max_steps:
            raise ValueError(
                f"config.correction.states is {self.correction.states}, but the solve has at most "
                f"{forward.max_steps} steps; lower it or raise config.solver.forward.max_steps."
            )
        self._check_segmentation()

    def _check_segmentation(self) -> None:
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


MAY_CHANGE_ON_RESUME = (
    "data.dir",
    "data.root",
    "data.eval_batch_size",
    "data.eval_image_size",
    "data.workers",
    "data.threads",
    "data.max_bad_records",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_seconds",
    "train.checkpoint_steps",
    "train.on_nonfinite",
    "train.max_skipped",
    "train.spectral_radius_iterations",
    "inference",
    "init_from",
    "init_from_allow_missing",
)
"""Keys, and sections of keys, that may have other values when a run is resumed.

They say where files lie, how data are read, what is logged and saved, how the model is evaluated,
what a fresh run starts from, and what becomes of a step whose loss is not finite. None of them
changes any other training step.
"""


def default_config() -> ConfigDict:
    """Return every key with its default, for a config file to start from."""
    return to_config_dict(Config())


def finalize(config: ConfigDict | Mapping[str, Any]) -> Config:
    """Check a config and freeze it.

    Args:
      config: nested mapping with the keys of `Config`, any of them left out.

    Raises:
      ValueError: an unknown key, a value of the wrong type, or one out of range; by its full name.

    Examples:
      >>> finalize({"solver": {"forward": {"max_steps": 6}}}).solver.forward.max_steps
      6
      >>> finalize({"solver": {"forward": {"max_step": 6}}})
      Traceback (most recent call last):
      ValueError: config.solver.forward.max_step is not a config key. Did you mean ...max_steps?
    """
    nested = config.to_dict() if isinstance(config, ConfigDict) else config
    return from_mapping(Config(), nested)


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a config with other values under some dotted keys.

    Raises:
      ValueError: as `finalize`.

    Examples:
      >>> override(Config(), {"solver.forward.max_steps": 6}).solver.forward.max_steps
      6
    """
    return finalize(with_values(dataclasses.asdict(config), changes))
