"""The configuration of a run of `mdeq_jax.apps.regression`."""

import dataclasses
from typing import Literal

from mdeq_jax.checks import require_int
from mdeq_jax.training import config as run_config
from mdeq_jax.training.config import OptimConfig, RunConfig, TrainConfig
from mdeq_jax.training.layer_config import JacobianConfig, SolverConfig, SolversConfig

_TRAINING = SolverConfig("anderson", max_steps=30, tol=1e-4)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture.

    Attributes:
      width: number of hidden units, at least 1.
    """

    width: int = 50

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "width", minimum=1)


@dataclasses.dataclass(frozen=True)
class DataConfig(run_config.DataConfig):
    """The pairs, which are drawn from config.seed.

    Attributes:
      train_pairs: number of pairs to train on, at least 1.
      eval_pairs: number of pairs to validate on, at least 1.
    """

    batch_size: int = 256
    eval_batch_size: int = 1000
    train_pairs: int = 4096
    eval_pairs: int = 1000

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        for field in ("train_pairs", "eval_pairs"):
            require_int(self, field, minimum=1)


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The config of a run: the keys of `RunConfig`, and these.

    Attributes:
      app: "regression".
      model: the architecture.
      data: the pairs, and how they are read.
    """

    app: Literal["regression"] = "regression"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    solver: SolversConfig = SolversConfig(_TRAINING, _TRAINING)
    jacobian: JacobianConfig = JacobianConfig(step_jitter=0)
    optim: OptimConfig = OptimConfig(learning_rate=0.01, learning_rate_floor=0.0)
    train: TrainConfig = TrainConfig(
        steps=3000, log_every=100, eval_every=500, spectral_radius_iterations=1
    )

    def __post_init__(self):
        """Check what concerns more than one section; raises ValueError."""
        super().__post_init__()
        if self.dtype != "float32":
            raise ValueError(f"config.dtype is {self.dtype!r}; this model computes in 'float32'.")
