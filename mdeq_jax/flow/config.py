"""The configuration of a run of DEQ-Flow."""

import dataclasses
from typing import ClassVar, Literal

from mdeq_jax.checks import require, require_int
from mdeq_jax.flow.model.config import FACTOR, ModelConfig
from mdeq_jax.training import config as run_config
from mdeq_jax.training.config import OptimConfig, RunConfig, TrainConfig
from mdeq_jax.training.layer_config import (
    AdjointConfig,
    CorrectionConfig,
    SolverConfig,
    SolversConfig,
)

EvaluationSet = Literal["shapes", "chairs", "sintel_clean", "sintel_final", "kitti"]


@dataclasses.dataclass(frozen=True)
class DataConfig(run_config.DataConfig):
    """The pairs of images that are trained on.

    Attributes:
      stage: "shapes", scenes that are generated; or a stage of the published recipes, each with its
        own mixture of data sets and its own augmentation: "chairs" (FlyingChairs), "things"
        (FlyingThings3D, both passes), "sintel" (Sintel, KITTI, HD1K and FlyingThings3D) or "kitti".
      root: folder that holds the folders FlyingChairs_release, FlyingThings3D, Sintel, KITTI and
        HD1k, as far as the stage and the evaluation use them. "shapes" needs none.
      crop: height and width of training images, multiples of 8.
      scenes: "shapes": number of scenes in an epoch. Each epoch draws new scenes.
      eval_scenes: "shapes": number of scenes of the evaluation, at least 1.
      eval_size: "shapes": height and width of the scenes of the evaluation, multiples of 8; None
        takes `crop`.
      objects: "shapes": number of moving objects of a scene, at least 1.
      max_motion: "shapes": longest motion in pixels, above 0.
    """

    batch_size: int = 16
    eval_batch_size: int = 50
    stage: Literal["shapes", "chairs", "things", "sintel", "kitti"] = "shapes"
    root: str | None = None
    crop: tuple[int, int] = (64, 64)
    scenes: int = 20_000
    eval_scenes: int = 200
    eval_size: tuple[int, int] | None = None
    objects: int = 3
    max_motion: float = 6.0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        for field in ("crop", "eval_size"):
            size = getattr(self, field) or self.crop
            fits = all(side > 0 and side % FACTOR == 0 for side in size)
            require(self, field, len(size) == 2 and fits, "two multiples of 8 above 0")
        for field in ("scenes", "eval_scenes", "objects"):
            require_int(self, field, minimum=1)
        require(self, "max_motion", self.max_motion > 0, "above 0")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The sequence loss, whose weights are `correction.gamma`.

    Attributes:
      max_flow: pixels whose flow is this long or longer do not count, above 0.
    """

    max_flow: float = 400.0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require(self, "max_flow", self.max_flow > 0, "above 0")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluations.

    Attributes:
      sets: the data sets, at least one: "shapes", "chairs" (its validation part), "sintel_clean",
        "sintel_final" or "kitti" (their training parts). With a single set, metrics are called
        "eval/epe" and so on. With several sets, the name of the set follows, as in
        "eval/epe_kitti". The error on the first set chooses the best checkpoint.
      steps: largest number of solver steps, at least 1.
    """

    sets: tuple[EvaluationSet, ...] = ("shapes",)
    steps: int = 24

    def __post_init__(self):
        """Check the options; raises ValueError."""
        distinct = len({*self.sets}) == len(self.sets) > 0
        require(self, "sets", distinct, "distinct names, at least one")
        require_int(self, "steps", minimum=1)


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The config of a run: the keys of `RunConfig`, and these.

    Attributes:
      app: "flow".
      model: the architecture.
      freeze_norm: whether the context encoder's BatchNorm keeps its statistics in training, as all
        stages after FlyingChairs do.
      data: the pairs of images that are trained on.
      loss: the sequence loss.
      evaluation: the evaluations.
    """

    may_change_on_resume: ClassVar[tuple[str, ...]] = (
        *run_config.MAY_CHANGE_ON_RESUME,
        "data.eval_scenes",
        "data.eval_size",
        "evaluation",
    )

    app: Literal["flow"] = "flow"
    model: ModelConfig = ModelConfig()
    freeze_norm: bool = False
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    solver: SolversConfig = SolversConfig(
        SolverConfig("picard", max_steps=12, tol=1e-3), SolverConfig(max_steps=20)
    )
    adjoint: AdjointConfig = AdjointConfig("phantom", steps=1, damping=1.0)
    correction: CorrectionConfig = CorrectionConfig(states=3, gamma=0.8, mode="slice")
    optim: OptimConfig = OptimConfig(
        schedule="one_cycle", weight_decay=1e-4, weight_decay_mode="decoupled", clip_norm=1.0
    )
    train: TrainConfig = TrainConfig(steps=2000, eval_every=1000)
