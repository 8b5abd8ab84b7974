"""The configuration of a run: frozen dataclasses, and `finalize`, which checks what a user wrote.

A config file returns a `ml_collections.ConfigDict` that starts from `default_config()` and states
what differs; the command line overrides it; `finalize` turns the outcome into a `Config`.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import ConfigDict

from mdeq_jax.implicit import Adjoint, Exact, JacobianFree, Phantom
from mdeq_jax.models.config import ModelConfig
from mdeq_jax.sections import from_mapping, to_config_dict
from mdeq_jax.solvers import Anderson, Broyden, Picard, Solver
from mdeq_jax.solvers.common import require, require_int

_SOLVERS = {"picard": Picard, "anderson": Anderson, "broyden": Broyden}


@dataclasses.dataclass(frozen=True)
class SolverConfig:
    """A solver by name. A field that the named solver does not have is not used.

    Attributes:
      name: "broyden", "anderson" or "picard".
      max_steps: most steps of one solve, at least 1.
      tol: residual at which a sample has converged, at least 0.
      stop_mode: "rel" or "abs" residual.
      stop_scope: "sample", or "batch" as the originals stop.
      memory: Broyden's rows of history; None keeps all steps.
      window: Anderson's window, at least 1.
      ridge: Anderson's regularisation, at least 0.
      ridge_mode: "relative" to the Gram matrix, or "absolute" as in the originals.
      mixing: Anderson's β in (0, 1].
      damping: Picard's damping in (0, 1].
    """

    name: Literal["broyden", "anderson", "picard"] = "broyden"
    max_steps: int = 30
    tol: float = 1e-3
    stop_mode: Literal["rel", "abs"] = "rel"
    stop_scope: Literal["sample", "batch"] = "sample"
    memory: int | None = None
    window: int = 6
    ridge: float = 1e-4
    ridge_mode: Literal["relative", "absolute"] = "relative"
    mixing: float = 1.0
    damping: float = 1.0

    def __post_init__(self):
        """Check the options by building the solver; raises ValueError."""
        self.build()

    def build(self) -> Solver:
        """Return the solver."""
        solver = _SOLVERS[self.name]
        names = [field.name for field in dataclasses.fields(solver)]
        return solver(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class SolversConfig:
    """The solver of the equilibrium and that of its adjoint equation."""

    forward: SolverConfig = SolverConfig(max_steps=18)
    backward: SolverConfig = SolverConfig(max_steps=20)


@dataclasses.dataclass(frozen=True)
class AdjointConfig:
    """Where the gradient of the equilibrium comes from.

    Attributes:
      name: "exact" (solved by `solver.backward`), "jacobian_free" or "phantom".
      steps: of the phantom gradient, at least 1.
      damping: of the phantom gradient, in (0, 1].
    """

    name: Literal["exact", "jacobian_free", "phantom"] = "exact"
    steps: int = 5
    damping: float = 0.5

    def __post_init__(self):
        """Check the options; raises ValueError."""
        Phantom(self.steps, self.damping)

    def build(self, backward: Solver) -> Adjoint | Phantom:
        """Return the adjoint; `backward` solves the exact one."""
        if self.name == "exact":
            return Exact(backward)
        return JacobianFree() if self.name == "jacobian_free" else Phantom(self.steps, self.damping)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set and how it is fed.

    Attributes:
      name: of the data set.
      dir: folder of TFDS data sets; None for TFDS's default (TFDS_DATA_DIR).
      batch_size: training images of one step, over all devices and processes.
      eval_batch_size: likewise in evaluation.
      image_size: (height, width) of the images that the model is given.
      augment: whether training images are augmented.
    """

    name: str = "digits"
    dir: str | None = None
    batch_size: int = 64
    eval_batch_size: int = 120
    image_size: tuple[int, ...] = (8, 8)
    augment: bool = True

    def __post_init__(self):
        """Check the options; raises ValueError."""
        two_sides = len(self.image_size) == 2 and min(self.image_size) > 0
        require(self, "image_size", two_sides, "a height and a width, both at least 1")
        require_int(self, "batch_size", minimum=1)
        require_int(self, "eval_batch_size", minimum=1)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its learning rate.

    Attributes:
      name: "adam", "sgd" or "rmsprop".
      learning_rate: at the start.
      schedule: "cosine" from there to `learning_rate_floor` at the last step, "poly" as
        (1 − t / steps)^0.9, "step", or "constant".
      learning_rate_floor: where the cosine ends.
      step_epochs: epochs at which "step" multiplies the learning rate by `step_factor`.
      step_factor: that factor, above 0.
      weight_decay: L2 penalty on every parameter, added to the gradient before the optimizer's
        scaling, as PyTorch's optimizers do.
      momentum: of SGD and RMSprop, in [0, 1).
      nesterov: whether SGD's momentum is Nesterov's.
      clip_norm: bound on the gradient's global norm; None is unbounded.
    """

    name: Literal["adam", "sgd", "rmsprop"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "poly", "step", "constant"] = "cosine"
    learning_rate_floor: float = 1e-6
    step_epochs: tuple[int, ...] = (30, 60, 90)
    step_factor: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    clip_norm: float | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require(self, "learning_rate", self.learning_rate > 0, "above 0")
        floor = 0 <= self.learning_rate_floor <= self.learning_rate
        require(self, "learning_rate_floor", floor, "between 0 and learning_rate")
        rising = all(a < b for a, b in itertools.pairwise((0, *self.step_epochs)))
        require(self, "step_epochs", rising, "a rising list of whole numbers above 0")
        require(self, "step_factor", self.step_factor > 0, "above 0")
        require(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        require(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")
        require(self, "clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or None")


@dataclasses.dataclass(frozen=True)
class JacobianConfig:
    """Jacobian regularisation (Bai, Koltun, Kolter, ICML 2021): γ·`jacobian_loss` on some steps.

    Attributes:
      probability: that a step adds the term, in [0, 1].
      weight: γ when the solver takes over.
      pretrain_weight: γ while the cell is unrolled.
      increment_steps: γ grows by 0.1 each time this many solved steps are over; None leaves it.
      stop_epoch: the epoch from which on γ is 0; None is never.
      step_jitter: on steps with the term the forward solve's limit is solver.forward.max_steps plus
        a whole number drawn from −step_jitter to 1; 0 leaves it.
    """

    probability: float = 0.0
    weight: float = 0.0
    pretrain_weight: float = 0.0
    increment_steps: int | None = None
    stop_epoch: int | None = None
    step_jitter: int = 2

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require(self, "probability", 0 <= self.probability <= 1, "in [0, 1]")
        for field in ("weight", "pretrain_weight"):
            require(self, field, getattr(self, field) >= 0, "at least 0")
        if self.increment_steps is not None:
            require_int(self, "increment_steps", minimum=1)
        if self.stop_epoch is not None:
            require_int(self, "stop_epoch", minimum=0)
        require_int(self, "step_jitter", minimum=0)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The course of training.

    Attributes:
      epochs: passes over the training set.
      epoch_fraction: share of an epoch's batches that is trained on, in (0, 1]. It shortens the
        epochs, not the schedule of the learning rate.
      steps: number of steps; if not None it takes the place of `epochs`.
      pretrain_steps: first steps in which the cell is unrolled instead of solved.
      num_layers: applications of the cell in those steps.
      log_every: steps between lines of metrics.
      eval_every: steps between evaluations.
      checkpoint_seconds: most seconds of training between checkpoints.
    """

    epochs: int = 50
    epoch_fraction: float = 1.0
    steps: int | None = None
    pretrain_steps: int = 0
    num_layers: int = 10
    log_every: int = 20
    eval_every: int = 200
    checkpoint_seconds: float = 15.0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        for field in ("epochs", "num_layers", "log_every", "eval_every"):
            require_int(self, field, minimum=1)
        require(self, "epoch_fraction", 0 < self.epoch_fraction <= 1, "in (0, 1]")
        if self.steps is not None:
            require_int(self, "steps", minimum=1)
        require_int(self, "pretrain_steps", minimum=0)
        require(self, "checkpoint_seconds", self.checkpoint_seconds >= 0, "at least 0")

    def steps_per_epoch(self, batches_per_epoch: int) -> int:
        """Return the number of steps of an epoch."""
        return max(1, int(self.epoch_fraction * batches_per_epoch))

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of steps."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    def unrolled_at(self, step: int) -> int | None:
        """Return how often the cell is applied after `step` steps, or None where it is solved."""
        return self.num_layers if step < self.pretrain_steps else None


@dataclasses.dataclass(frozen=True)
class Config:
    """All of a run.

    Attributes:
      model: the architecture.
      solver: the forward and the backward solver.
      adjoint: where the gradient comes from.
      data: the data set.
      optim: the optimizer.
      jacobian: regularisation of the cell's Jacobian.
      train: the course of training.
      init_from: checkpoint, or PyTorch file, whose weights a fresh run starts from as far as they
        fit; None starts from random ones.
      seed: of initialisation, shuffling, augmentation and dropout, in [0, 2³²).
    """

    model: ModelConfig = ModelConfig()
    solver: SolversConfig = SolversConfig()
    adjoint: AdjointConfig = AdjointConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    jacobian: JacobianConfig = JacobianConfig()
    train: TrainConfig = TrainConfig()
    init_from: str | None = None
    seed: int = 0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "seed", minimum=0)
        require(self, "seed", self.seed < 2**32, "below 2**32")


# Keys that change nothing of what is computed, and so may differ when a run is resumed.
PRESENTATION_KEYS = (
    "data.dir",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_seconds",
)


def default_config() -> ConfigDict:
    """Return every key with its default, for a config file to start from."""
    return to_config_dict(Config())


def finalize(config: ConfigDict | Mapping[str, Any]) -> Config:
    """Check a config and freeze it.

    Args:
      config: nested mapping with the keys of `Config`, any of them left out.

    Raises:
      ValueError: an unknown key, a value of the wrong type, or one out of range; by its full name.
    """
    nested = config.to_dict() if isinstance(config, ConfigDict) else config
    return from_mapping(Config(), nested, "config")
