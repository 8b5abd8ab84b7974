"""The sections of a config that say what is trained on, by what, and for how long."""

import dataclasses
import itertools
from typing import Literal

from mdeq_jax.checks import require, require_int, require_share


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set and how it is fed.

    Attributes:
      name: of the data set.
      dir: folder of TFDS data sets; None for TFDS's default (TFDS_DATA_DIR).
      root: folder of your own files: of "folder" and "seg_folder", or of "cityscapes" where it is
        extracted; None reads "cityscapes" through TFDS.
      batch_size: training images of one step, over all devices and processes.
      eval_batch_size: likewise in evaluation.
      image_size: (height, width) of the images, or crops of them, that are trained on.
      eval_image_size: (height, width) in evaluation. For "imagenet2012" and "folder", of the middle
        of an image; None is `image_size`. For segmentation, what images are padded to; None is the
        size of the data set's own images, of the largest where they differ.
      augment: whether training images are augmented.
      colour_jitter: most by which brightness, contrast and saturation are changed, each by a factor
        of up to 1 ± this, in the augmentation of "imagenet2012" and "folder".
      workers: number of processes that read and augment; 0 does so in the training process.
      threads: number of threads of each of those processes, each of them one batch ahead.
      max_bad_records: most examples that cannot be read, in each process that reads; more are an
        error. The next example takes the place of such a one; evaluation leaves it out.
    """

    name: str = "digits"
    dir: str | None = None
    root: str | None = None
    batch_size: int = 64
    eval_batch_size: int = 120
    image_size: tuple[int, ...] = (8, 8)
    eval_image_size: tuple[int, ...] | None = None
    augment: bool = True
    colour_jitter: float = 0.0
    workers: int = 0
    threads: int = 1
    max_bad_records: int = 10

    def __post_init__(self):
        """Check the options; raises ValueError."""
        for field in ("image_size", "eval_image_size"):
            size = getattr(self, field)
            two_sides = size is None or (len(size) == 2 and min(size) > 0)
            require(self, field, two_sides, "a height and a width, both at least 1")
        for field in ("batch_size", "eval_batch_size", "threads"):
            require_int(self, field, minimum=1)
        for field in ("workers", "max_bad_records"):
            require_int(self, field, minimum=0)
        require(self, "colour_jitter", self.colour_jitter >= 0, "at least 0")


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
    """The course of training.

    Attributes:
      epochs: passes over the training set.
      epoch_fraction: share of an epoch's batches that is trained on, in (0, 1]. It shortens the
        epochs, not the schedule of the learning rate.
      steps: number of steps; if not None it takes the place of `epochs`.
      pretrain_steps: first steps in which the cell is unrolled instead of solved.
      num_layers: applications of the cell in those steps.
      accumulate_steps: microbatches that a device takes its share of a batch in, one after the
        other; memory falls with their number. BatchNorm goes by the microbatch, and so do the means
        over pixels of a segmentation loss, which are averaged.
      log_every: steps between lines of metrics.
      eval_every: steps between evaluations.
      checkpoint_seconds: most seconds of training between checkpoints.
      checkpoint_steps: most steps between them; None leaves it to the clock.
      on_nonfinite: what becomes of a step whose loss or gradient is not finite: "stop" ends
        training, "skip" leaves the parameters as they were before it.
      max_skipped: most steps in a row that are skipped; one more ends training.
      spectral_radius_iterations: products with the cell's Jacobian by which evaluation estimates
        its spectral radius at each equilibrium; 0 leaves it out.
    """

    epochs: int = 50
    epoch_fraction: float = 1.0
    steps: int | None = None
    pretrain_steps: int = 0
    num_layers: int = 10
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
        for field in ("steps", "checkpoint_steps"):
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
