"""The configuration of a run of adversarial training."""

import dataclasses
import math
from typing import ClassVar, Literal

from mdeq_jax.checks import require, require_int, require_number, require_share
from mdeq_jax.inverse.config import OptimiseConfig
from mdeq_jax.training import config as run_config
from mdeq_jax.training.config import OptimConfig, RunConfig, TrainConfig
from mdeq_jax.training.layer_config import SolverConfig, SolversConfig

_FORWARD = SolverConfig("anderson", max_steps=40, tol=1e-3)
_BACKWARD = SolverConfig("anderson", max_steps=30, tol=1e-3)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The classifier: an equilibrium of 4×4 positions.

    Attributes:
      width: number of channels of the state and of the stem, a multiple of `groups`.
      groups: number of groups of each GroupNorm, at least 1.
    """

    width: int = 24
    groups: int = 4

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "groups", minimum=1)
        require_int(self, "width", minimum=1)
        require(self, "width", self.width % self.groups == 0, f"a multiple of {self.groups}")


@dataclasses.dataclass(frozen=True)
class AttackConfig:
    """The perturbations that training and evaluation search, and how training searches them.

    Attributes:
      method: "joint" solves for the perturbation and the equilibrium in one augmented fixed point;
        "pgd" takes `pgd_steps` steps of projected gradient ascent, each with an equilibrium and an
        implicit gradient of its own; "none" trains on clean images.
      norm: norm of the ball of perturbations: "l2" or "linf".
      epsilon: radius ε of the ball, above 0. Pixels are in [0, 1].
      pgd_steps: number of steps of "pgd", at least 1.
      pgd_step_size: length of a step of "pgd" as a share of ε, in the norm of the ball; above 0.
    """

    method: Literal["joint", "pgd", "none"] = "joint"
    norm: Literal["l2", "linf"] = "l2"
    epsilon: float = 0.5
    pgd_steps: int = 5
    pgd_step_size: float = 0.4

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_number(self, "epsilon", lambda x: 0 < x < math.inf, "above 0, and finite")
        require_int(self, "pgd_steps", minimum=1)
        require_number(self, "pgd_step_size", lambda x: x > 0, "above 0")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The attack of the evaluation, which no training uses.

    Attributes:
      restarts: number of random perturbations to start from, at least 1.
      steps: number of steps from each start, at least 1.
      first_step: length of the first step as a share of ε, in (0, 1]. It is halved for a sample
        after each step that does not raise the margin.
    """

    restarts: int = 3
    steps: int = 20
    first_step: float = 1.0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "restarts", minimum=1)
        require_int(self, "steps", minimum=1)
        require_share(self, "first_step")


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The config of a run: the keys of `RunConfig`, and these.

    Attributes:
      app: "adversarial".
      model: the architecture.
      attack: the perturbations, and how training searches them.
      optimise: step sizes of the augmented map, which the method "joint" uses.
      evaluation: the attack of the evaluation.
    """

    may_change_on_resume: ClassVar[tuple[str, ...]] = (
        *run_config.MAY_CHANGE_ON_RESUME,
        "evaluation",
    )

    app: Literal["adversarial"] = "adversarial"
    model: ModelConfig = ModelConfig()
    attack: AttackConfig = AttackConfig()
    optimise: OptimiseConfig = OptimiseConfig(x_step=0.1)
    evaluation: EvaluationConfig = EvaluationConfig()
    solver: SolversConfig = SolversConfig(_FORWARD, _BACKWARD)
    optim: OptimConfig = OptimConfig(learning_rate=3e-3, clip_norm=1.0)
    train: TrainConfig = TrainConfig(epochs=20, eval_every=1000)

    def __post_init__(self):
        """Check what concerns more than one section; raises ValueError."""
        super().__post_init__()
        if self.dtype != "float32":
            raise ValueError(f"config.dtype is {self.dtype!r}; this model computes in 'float32'.")
