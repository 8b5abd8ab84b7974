"""`RunConfig`, the part of a run's configuration that every application has.

An application extends it with its model, its data and its loss.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from mdeq_jax.checks import require, require_int, require_share
from mdeq_jax.training.layer_config import (
    AdjointConfig,
    CorrectionConfig,
    JacobianConfig,
    SolversConfig,
)
from mdeq_jax.training.sections import from_mapping, with_values


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How examples are read. An application adds the keys that choose the data.

    Attributes:
      batch_size: examples of one training step, over all devices and processes, at least 1.
      eval_batch_size: examples of one evaluation step, over all devices and processes, at least 1.
      workers: number of processes that read and augment; 0 does so in the training process.
      threads: number of threads of each process that reads, at least 1. Each thread prepares one
        batch in advance.
      max_bad_records: most examples that each reading process may find unreadable; one more is an
        error. In training the next example takes the place of an unreadable one; evaluation leaves
        it out.
    """

    batch_size: int = 64
    eval_batch_size: int = 120
    workers: int = 0
    threads: int = 1
    max_bad_records: int = 10

    def __post_init__(self):
        """Check the options; raises ValueError."""
        for field in ("batch_size", "eval_batch_size", "threads"):
            require_int(self, field, minimum=1)
        for field in ("workers", "max_bad_records"):
            require_int(self, field, minimum=0)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its learning rate.

    Attributes:
      name: "adam", "sgd" or "rmsprop".
      learning_rate: the highest learning rate of the schedule, above 0.
      schedule: "constant"; "cosine", half a cosine down to `learning_rate_floor` at the last step;
        "poly", `learning_rate` times (1 − t / steps)^0.9; "step", times `step_factor` at each of
        `step_epochs`; "exponential", times `decay_rate` every `decay_steps` steps; or "one_cycle",
        a straight line up during the share `cycle_rise` of the steps, then one down to about 0.
      learning_rate_floor: last learning rate of "cosine", between 0 and `learning_rate`.
      step_epochs: epochs at which "step" multiplies the learning rate by `step_factor`.
      step_factor: factor of "step", above 0.
      decay_rate: factor of "exponential" every `decay_steps` steps, in (0, 1].
      decay_steps: number of steps between two decays of "exponential"; None is one epoch.
      cycle_rise: share of the steps in which "one_cycle" rises, in (0, 1).
      warmup_steps: number of first steps in which the learning rate of any schedule is multiplied
        by (t + 1) / warmup_steps; 0 is no warm-up.
      weight_decay: weight decay of every parameter outside of `groups`, at least 0.
      weight_decay_mode: "coupled" adds the weight decay to the gradient before the optimizer's
        scaling, as L2 penalties and PyTorch's Adam do; "decoupled" adds it after, as AdamW does.
      groups: entries (pattern, learning-rate factor, weight decay) for some of the parameters. The
        pattern is matched with the parameter's path, such as "cell/conv/kernel"; `*` stands for any
        part of it. The first entry that matches counts. Factor and weight decay are at least 0.
      momentum: momentum of "sgd" and "rmsprop", in [0, 1).
      nesterov: whether the momentum of "sgd" is Nesterov's.
      clip_norm: bound on the gradient's global norm; None is unbounded.
      ema_decay: decay of the exponential moving average of the parameters, in [0, 1); None keeps no
        average.
    """

    name: Literal["adam", "sgd", "rmsprop"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "poly", "step", "exponential", "one_cycle", "constant"] = "cosine"
    learning_rate_floor: float = 1e-6
    step_epochs: tuple[int, ...] = (30, 60, 90)
    step_factor: float = 0.1
    decay_rate: float = 0.95
    decay_steps: int | None = None
    cycle_rise: float = 0.05
    warmup_steps: int = 0
    weight_decay: float = 0.0
    weight_decay_mode: Literal["coupled", "decoupled"] = "coupled"
    groups: tuple[tuple[str, float, float], ...] = ()
    momentum: float = 0.9
    nesterov: bool = True
    clip_norm: float | None = None
    ema_decay: float | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require(self, "learning_rate", self.learning_rate > 0, "above 0")
        floor = 0 <= self.learning_rate_floor <= self.learning_rate
        require(self, "learning_rate_floor", floor, "between 0 and learning_rate")
        rising = all(a < b for a, b in itertools.pairwise((0, *self.step_epochs)))
        require(self, "step_epochs", rising, "a rising list of whole numbers above 0")
        require(self, "step_factor", self.step_factor > 0, "above 0")
        require_share(self, "decay_rate")
        if self.decay_steps is not None:
            require_int(self, "decay_steps", minimum=1)
        require(self, "cycle_rise", 0 < self.cycle_rise < 1, "in (0, 1)")
        require_int(self, "warmup_steps", minimum=0)
        require(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        signs = all(factor >= 0 and decay >= 0 for _, factor, decay in self.groups)
        require(self, "groups", signs, "entries whose factor and weight decay are at least 0")
        require(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")
        require(self, "clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or None")
        share = self.ema_decay is None or 0 <= self.ema_decay < 1
        require(self, "ema_decay", share, "in [0, 1), or None")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long training runs, and when it logs, evaluates and saves.

    Attributes:
      epochs: passes over the training set.
      epoch_fraction: share of an epoch's batches that is trained on, in (0, 1]. It shortens the
        epochs, not the schedule of the learning rate.
      steps: number of steps; if not None it takes the place of `epochs`.
      pretrain_steps: number of first steps in which the cell is unrolled instead of solved.
      num_layers: number of applications of the cell in the first `pretrain_steps` steps.
      fewest_solver_steps: each training step's solve has its own limit, a whole number drawn from
        this one to `solver.forward.max_steps`; None always allows `solver.forward.max_steps`. With
        the adjoint "phantom" this is the progressive training of deep-thinking networks.
      initial_state: where training's solves start. "own" keeps the application's own initial state;
        the other kinds are those of `mdeq_jax.initial_state`.
      accumulate_steps: number of microbatches into which each device splits its share of a batch.
        It takes them one after the other, which needs less memory. BatchNorm uses the statistics of
        each microbatch. The loss of segmentation, a mean over pixels, is computed for each
        microbatch and then averaged.
      log_every: steps between lines of metrics.
      eval_every: steps between evaluations.
      checkpoint_seconds: most seconds of training between checkpoints.
      checkpoint_steps: most steps between checkpoints; None sets no limit beside
        `checkpoint_seconds`.
      on_nonfinite: what happens in a step whose loss or gradient is not finite: "stop" ends
        training, "skip" leaves the parameters unchanged.
      max_skipped: most steps in a row that are skipped; one more ends training.
      spectral_radius_iterations: number of products with the cell's Jacobian by which evaluation
        estimates the Jacobian's spectral radius at each equilibrium; 0 omits the estimate.
    """

    epochs: int = 50
    epoch_fraction: float = 1.0
    steps: int | None = None
    pretrain_steps: int = 0
    num_layers: int = 10
    fewest_solver_steps: int | None = None
    initial_state: Literal["own", "zeros", "normal", "mixed", "mixed_samples"] = "own"
    accumulate_steps: int = 1
    log_every: int = 20
    eval_every: int = 200
    checkpoint_seconds: float = 15.0
    checkpoint_steps: int | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: int = 10
    spectral_radius_iterations: int = 0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        for field in ("epochs", "num_layers", "accumulate_steps", "log_every", "eval_every"):
            require_int(self, field, minimum=1)
        require_share(self, "epoch_fraction")
        for field in ("steps", "checkpoint_steps", "fewest_solver_steps"):
            if getattr(self, field) is not None:
                require_int(self, field, minimum=1)
        require_int(self, "max_skipped", minimum=0)
        for field in ("pretrain_steps", "spectral_radius_iterations"):
            require_int(self, field, minimum=0)
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


MAY_CHANGE_ON_RESUME = (
    "data.eval_batch_size",
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
    "init_from",
    "init_from_allow_missing",
)
"""Keys of every application that may have other values when a run is resumed.

They say how data are read, what is logged and saved, how the model is evaluated, what a fresh run
starts from, and what happens in a step whose loss is not finite. None of them changes any other
training step.
"""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What a run of any application is made of.

    Attributes:
      app: the application that is trained, a name of `mdeq_jax.applications.APPLICATIONS`. Each
        application's config has its own name as the default.
      solver: the forward and the backward solver.
      adjoint: how the gradient of the equilibrium is computed.
      correction: losses on states of the solve.
      jacobian: regularisation of the cell's Jacobian.
      optim: the optimizer.
      train: the number of steps, and when training logs, evaluates and saves.
      data: how examples are read.
      dtype: dtype in which the model computes. "bfloat16" is for accelerators; parameters, the
        statistics of norms, states and history of the solvers, outputs and loss stay in float32.
        Rounding leaves a relative residual of 2e-3 to 1e-2, depending on the model, so a tolerance
        below 1e-2 spends steps that gain nothing.
      init_from: checkpoint, or PyTorch file, whose weights a fresh run starts from as far as they
        fit; None starts from random ones. The arrays that keep their initial values are printed. If
        an array of the cell is among them and `init_from_allow_missing` does not name it, that is
        an error.
      init_from_allow_missing: arrays of the cell that may keep their initial values although
        `init_from` is given. Each entry is a path, such as "params/cell/post_fuse_layers_*", or a
        PyTorch name, such as "fullstage.post_fuse_layers.*"; ``*`` stands for any part.
      seed: seed of initialisation, shuffling, augmentation and dropout, in [0, 2³²).
    """

    may_change_on_resume: ClassVar[tuple[str, ...]] = MAY_CHANGE_ON_RESUME

    app: str = ""
    solver: SolversConfig = SolversConfig()
    adjoint: AdjointConfig = AdjointConfig()
    correction: CorrectionConfig = CorrectionConfig()
    jacobian: JacobianConfig = JacobianConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    init_from: str | None = None
    init_from_allow_missing: tuple[str, ...] = ()
    seed: int = 0

    @property
    def compute_dtype(self) -> str | None:
        """The dtype for a model to compute in; None is the dtype of the parameters, float32."""
        return None if self.dtype == "float32" else self.dtype

    def __post_init__(self):
        """Check what concerns more than one section; raises ValueError."""
        require_int(self, "seed", minimum=0)
        require(self, "seed", self.seed < 2**32, "below 2**32")
        self._check_adjoint()
        steps, fewest = self.solver.forward.max_steps, self.train.fewest_solver_steps
        if fewest is not None and fewest > steps:
            raise ValueError(
                f"config.train.fewest_solver_steps is {fewest}, above the {steps} steps of "
                "config.solver.forward.max_steps; lower it or raise max_steps."
            )
        jitter, limit = self.jacobian.step_jitter, fewest or steps
        if self.jacobian.probability > 0 and jitter >= limit:
            raise ValueError(
                f"config.jacobian.step_jitter is {jitter}, which can leave a solve of at most "
                f"{limit} steps none; lower it or raise the number of steps."
            )
        if self.correction.states > steps:
            raise ValueError(
                f"config.correction.states is {self.correction.states}, but the solve has at most "
                f"{steps} steps; lower it or raise config.solver.forward.max_steps."
            )
        unrolled = self.train.unrolled_at(0)
        if unrolled is not None and self.correction.states > unrolled:
            raise ValueError(
                f"config.correction.states is {self.correction.states}, but the cell is unrolled "
                f"{unrolled} times at first; lower it or raise config.train.num_layers."
            )

    def _check_adjoint(self) -> None:
        self.adjoint.require_own_options(with_correction=self.correction.states > 1)
        forward, every = self.solver.forward, self.adjoint.opa_every
        if self.adjoint.name == "shine" and (forward.name, forward.memory) != ("broyden", None):
            raise ValueError(
                "config.adjoint.name is 'shine', which reuses the whole history of Broyden's "
                f"method, but config.solver.forward is {forward.name!r} with "
                f"memory={forward.memory}; set its name to 'broyden' and its memory to None, or "
                "take another adjoint."
            )
        if every is not None and every > forward.max_steps:
            raise ValueError(
                f"config.adjoint.opa_every is {every}, but the solve has at most "
                f"{forward.max_steps} steps; lower it or raise config.solver.forward.max_steps."
            )


AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


def override(config: AnyConfig, changes: Mapping[str, Any]) -> AnyConfig:
    """Return a config of the same application with other values under some dotted keys.

    Raises:
      ValueError: a key is unknown, or its value has the wrong type or is out of range; the message
        gives the full key.

    Examples:
      >>> override(RunConfig(), {"solver.forward.max_steps": 6}).solver.forward.max_steps
      6
    """
    return from_mapping(type(config)(), with_values(dataclasses.asdict(config), changes))
