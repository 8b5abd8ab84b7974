"""The configuration of a run of equilibrium reasoning: prefix sums, mazes or Sudoku."""

import dataclasses
import math
from typing import ClassVar, Literal

from mdeq_jax.checks import require, require_int
from mdeq_jax.reasoning.model.config import ModelConfig
from mdeq_jax.training import config as run_config
from mdeq_jax.training.config import OptimConfig, RunConfig, TrainConfig
from mdeq_jax.training.layer_config import AdjointConfig, SolverConfig, SolversConfig

_PLAIN = SolverConfig("picard", max_steps=12, tol=1e-4)


@dataclasses.dataclass(frozen=True)
class DataConfig(run_config.DataConfig):
    """The task, and its problems.

    Attributes:
      task: "prefix_sums", "mazes" or "sudoku".
      root: folder of published problems: for "prefix_sums" and "mazes" the one that holds the
        folders of easy-to-hard-data, for "sudoku" the one of Sudoku-Extreme's train.csv and
        test.csv. None generates the problems. Published prefix sums have no splits: the last fifth
        of a file is for evaluation.
      size: size of the training problems: number of bits, size of a maze as its published folder
        names it (odd), or side of a Sudoku.
      train_problems: number of problems to train on, at least 1.
      eval_problems: number of problems of each size to evaluate on, at least 1.
      seed: seed of generated problems, in [0, 2³²).
      maze_kind: how mazes are generated: "depth_first", as published; "prim"; or "uniform", each
        spanning tree with the same probability.
      maze_resolution: "pixels" as published, or "cells", one position for each cell and wall, which
        is 4 to 5 times cheaper.
      givens: number of digits that a generated Sudoku shows; None removes digits while the solution
        stays unique.
    """

    batch_size: int = 128
    eval_batch_size: int = 100
    task: Literal["prefix_sums", "mazes", "sudoku"] = "prefix_sums"
    root: str | None = None
    size: int = 16
    train_problems: int = 10_000
    eval_problems: int = 200
    seed: int = 0
    maze_kind: Literal["depth_first", "prim", "uniform"] = "depth_first"
    maze_resolution: Literal["pixels", "cells"] = "cells"
    givens: int | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        for field in ("size", "train_problems", "eval_problems"):
            require_int(self, field, minimum=1)
        require_int(self, "seed", minimum=0)
        require(self, "seed", self.seed < 2**32, "below 2**32")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The sizes and the computation of the evaluations; each size is one evaluation.

    Attributes:
      sizes: sizes of the problems, at least one. Metrics have the size in their names, such as
        "eval/exact_64".
      steps: largest number of solver steps for each of the sizes.
      alignment_group: number of neighbouring rows of a batch among which the asymptotic alignment
        score exchanges equilibria. A group of n costs n − 1 more solves; 1 leaves the score out.
        Each device's share of `data.eval_batch_size` must be a multiple of it.
      initial_state: where the solves start: "own" is `model.start`; the other kinds are those of
        `mdeq_jax.initial_state`.
    """

    sizes: tuple[int, ...] = (16, 64, 256)
    steps: tuple[int, ...] = (30, 60, 240)
    alignment_group: int = 2
    initial_state: Literal["own", "zeros", "normal", "mixed", "mixed_samples"] = "own"

    def __post_init__(self):
        """Check the options; raises ValueError."""
        distinct = len({*self.sizes}) == len(self.sizes) > 0
        require(self, "sizes", distinct and min(self.sizes) > 0, "distinct numbers of at least 1")
        fits = len(self.steps) == len(self.sizes) and min(self.steps) > 0
        require(self, "steps", fits, "one number of at least 1 for each entry of sizes")
        require_int(self, "alignment_group", minimum=1)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is added to the cross-entropy, and how long a problem is supervised.

    Attributes:
      segments: number of training steps for which a row keeps its problem. Each of them continues
        from the state of the one before, without its gradient, and has its own loss and update.
        With 1 every step starts afresh on new problems. A model with a halting head ends a problem
        early when its halting logit is above 0.
      halting_weight: weight of the halting head's loss, the cross-entropy of whether the answer is
        right; at least 0.
      alignment_weight: weight of the mean cosine between the equilibrium and the one that is
        reached from a random state. Above 0 it penalises path independence, below 0 it promotes it.
        Every value but 0 costs a second solve.
    """

    segments: int = 1
    halting_weight: float = 0.5
    alignment_weight: float = 0.0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "segments", minimum=1)
        require(self, "halting_weight", self.halting_weight >= 0, "at least 0")
        require(self, "alignment_weight", math.isfinite(self.alignment_weight), "finite")


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The config of a run: the keys of `RunConfig`, and these.

    Attributes:
      app: "reasoning".
      model: the architecture.
      data: the task, and its problems.
      loss: supervision, and terms that are added to the loss.
      evaluation: sizes and steps of the evaluations.
    """

    may_change_on_resume: ClassVar[tuple[str, ...]] = (
        *run_config.MAY_CHANGE_ON_RESUME,
        "data.eval_problems",
        "evaluation",
    )

    app: Literal["reasoning"] = "reasoning"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    solver: SolversConfig = SolversConfig(_PLAIN, SolverConfig(max_steps=20))
    adjoint: AdjointConfig = AdjointConfig("phantom", steps=5, damping=1.0)
    optim: OptimConfig = OptimConfig(clip_norm=1.0)
    train: TrainConfig = TrainConfig(
        steps=800, eval_every=800, fewest_solver_steps=3, initial_state="mixed_samples"
    )

    def __post_init__(self):
        """Check what concerns more than one section; raises ValueError."""
        super().__post_init__()
        if self.loss.segments > 1 and self.adjoint.opa_every is not None:
            raise ValueError(
                f"config.loss.segments is {self.loss.segments}, but config.adjoint.opa_every needs "
                "the loss before the solve, when rows that keep their problem are not known; set "
                "segments to 1 or opa_every to None."
            )
