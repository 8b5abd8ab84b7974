"""The configuration of a run of a generator with optimised or encoded latent codes."""

import dataclasses
from typing import ClassVar, Literal

from mdeq_jax.checks import require, require_int, require_number
from mdeq_jax.inverse.config import OptimiseConfig
from mdeq_jax.inverse.generation.model.config import ModelConfig
from mdeq_jax.training import config as run_config
from mdeq_jax.training.config import OptimConfig, RunConfig, TrainConfig
from mdeq_jax.training.layer_config import SolverConfig, SolversConfig


@dataclasses.dataclass(frozen=True)
class DataConfig(run_config.DataConfig):
    """The images, with pixels in [0, 1].

    Attributes:
      images: "digits", scikit-learn's handwritten digits of 8×8 pixels; or "shapes", generated
        circles and rectangles of 16×16 pixels.
      shapes: "shapes": number of images to train on, at least 1; a quarter as many are generated
        for the evaluation.
    """

    batch_size: int = 64
    eval_batch_size: int = 120
    images: Literal["digits", "shapes"] = "digits"
    shapes: int = 2000

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        require(self, "images", self.images in ("digits", "shapes"), "'digits' or 'shapes'")
        require_int(self, "shapes", minimum=4)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is added to the squared error, which is summed over the pixels of an image.

    Attributes:
      prior: model.latents = "optimised": weight of ‖x‖² in the cost of a latent code x, at least 0.
      kl: model.latents = "encoded": weight of the divergence from the standard normal distribution,
        at least 0. It is twice the variance of the pixels' noise in the model of a variational
        autoencoder.
    """

    prior: float = 1e-3
    kl: float = 0.01

    def __post_init__(self):
        """Check the options; raises ValueError."""
        for field in ("prior", "kl"):
            require_number(self, field, lambda x: x >= 0, "of at least 0")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The inverse problems that a trained generator is evaluated on.

    Attributes:
      noise: standard deviations of the noise that is removed, each above 0, for pixels in [0, 1].
        The first one has the metrics psnr_denoise and psnr_noisy. Every other one has both with
        its number at the end of the names, such as psnr_denoise_0.2.
      box: height and width of the box that is hidden and filled in, at least 1.
    """

    noise: tuple[float, ...] = (0.4, 0.2)
    box: tuple[int, int] = (4, 4)

    def __post_init__(self):
        """Check the options; raises ValueError."""
        distinct = len({*self.noise}) == len(self.noise) > 0
        require(self, "noise", distinct and min(self.noise) > 0, "distinct numbers above 0")
        require(self, "box", len(self.box) == 2 and min(self.box) > 0, "two sides of at least 1")


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The config of a run: the keys of `RunConfig`, and these.

    With model.latents = "optimised", `solver.forward` solves the augmented map of state, latent
    code and multiplier. With "encoded" it solves the generator's equilibrium in training.

    Attributes:
      app: "inverse".
      model: the architecture.
      data: the images.
      loss: terms that are added to the squared error.
      optimise: step sizes of the optimisation of latent codes.
      evaluation: the inverse problems.
    """

    may_change_on_resume: ClassVar[tuple[str, ...]] = (
        *run_config.MAY_CHANGE_ON_RESUME,
        "evaluation",
    )

    app: Literal["inverse"] = "inverse"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optimise: OptimiseConfig = OptimiseConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    solver: SolversConfig = SolversConfig(
        SolverConfig("anderson", max_steps=40, tol=1e-4), SolverConfig(max_steps=20)
    )
    optim: OptimConfig = OptimConfig(clip_norm=1.0)
    train: TrainConfig = TrainConfig(steps=1000, eval_every=1000)
