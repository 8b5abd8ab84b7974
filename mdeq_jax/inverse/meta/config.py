"""The configuration of a run of meta-learning."""

import dataclasses
from typing import Literal

from mdeq_jax.checks import require, require_int
from mdeq_jax.inverse.config import OptimiseConfig
from mdeq_jax.training import config as run_config
from mdeq_jax.training.config import OptimConfig, RunConfig, TrainConfig
from mdeq_jax.training.layer_config import AdjointConfig, SolverConfig, SolversConfig

# Plain steps descend to a minimum; Anderson's mixtures may end at any stationary point.
_FORWARD = SolverConfig("picard", max_steps=60, tol=1e-3)
_BACKWARD = SolverConfig("broyden", max_steps=40, tol=1e-2)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The equilibrium network.

    Attributes:
      width: number of entries of the state of each point, at least 1.
      task_width: number of entries of the task vector v, at least 1.
    """

    width: int = 40
    task_width: int = 16

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "width", minimum=1)
        require_int(self, "task_width", minimum=1)


@dataclasses.dataclass(frozen=True)
class DataConfig(run_config.DataConfig):
    """The tasks; a row of a batch is one task.

    Attributes:
      task: "sinusoid", the regression of MAML; or "digits", 5-way classification of scikit-learn's
        digits, which trains on the classes 0 to 4 and evaluates on 5 to 9. With five classes in
        each half, "digits" tries the code and says little about meta-learning.
      shots: number of support points of a task, or of each of its classes; at least 1.
      queries: number of query points of a task, or of each of its classes; at least 1.
      train_tasks: number of tasks in an epoch, at least 1. Each epoch draws new ones.
      eval_tasks: number of held-out tasks, at least 1.
      seed: seed of the held-out tasks, in [0, 2³²).
    """

    batch_size: int = 32
    eval_batch_size: int = 100
    task: Literal["sinusoid", "digits"] = "sinusoid"
    shots: int = 10
    queries: int = 10
    train_tasks: int = 3200
    eval_tasks: int = 500
    seed: int = 0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        for field in ("shots", "queries", "train_tasks", "eval_tasks"):
            require_int(self, field, minimum=1)
        require_int(self, "seed", minimum=0)
        require(self, "seed", self.seed < 2**32, "below 2**32")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What the task vector minimises, and what the outer gradient contains.

    Attributes:
      penalty: weight of the mean of v² in the cost of a task vector, at least 0.
      second_order: whether the outer gradient includes how the task vector depends on the weights,
        by the implicit gradient of the optimum. False leaves this term out.
    """

    penalty: float = 0.01
    second_order: bool = True

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require(self, "penalty", self.penalty >= 0, "at least 0")


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The config of a run: the keys of `RunConfig`, and these.

    Attributes:
      app: "meta".
      model: the architecture.
      data: the tasks.
      loss: the cost of a task vector, and the outer gradient.
      optimise: step sizes of the augmented map.
    """

    app: Literal["meta"] = "meta"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optimise: OptimiseConfig = OptimiseConfig()
    solver: SolversConfig = SolversConfig(_FORWARD, _BACKWARD)
    adjoint: AdjointConfig = AdjointConfig("exact")
    optim: OptimConfig = OptimConfig(learning_rate=3e-3, clip_norm=1.0)
    train: TrainConfig = TrainConfig(steps=2000, log_every=100, eval_every=1000)

    def __post_init__(self):
        """Check what concerns more than one section; raises ValueError."""
        super().__post_init__()
        if self.dtype != "float32":
            raise ValueError(f"config.dtype is {self.dtype!r}; this model computes in 'float32'.")
