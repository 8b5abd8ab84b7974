"""The explicit models as an application of their own.

    python train.py --config configs/digits_resnet.py --workdir runs/digits_resnet

They use the data, the loss and the metrics of the vision application.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from mdeq_jax.comparison.baselines import Config, ExplicitModel
from mdeq_jax.training.experiment import Batch, Forward, Layer, Prediction, Variables
from mdeq_jax.vision import config as vision
from mdeq_jax.vision.experiment import VisionExperiment

__all__ = ["BaselineExperiment", "Config", "create_experiment"]


class BaselineExperiment:
    """An explicit model with the data, the loss and the metrics of `VisionExperiment`.

    Attributes:
      config: the config of the run.
      model: the model.
    """

    def __init__(self, config: Config):
        """Find the data set and make the model.

        Args:
          config: the config of the run.

        Raises:
          ValueError: there is no such data set, or the model does not fit it.
        """
        self.config = config
        self.model = ExplicitModel(config.model, config.compute_dtype)
        classes = vision.ModelConfig(num_classes=config.model.num_classes)
        images = VisionExperiment(vision.Config(model=classes, data=config.data, seed=config.seed))
        self._images, self.sample, self.score = images, images.sample, images.score
        self.progress, self.record_name = images.progress, images.record_name
        self.init_carry, self.train_batches = images.init_carry, images.train_batches
        self.evaluations, self.prepare = images.evaluations, images.prepare
        self.loss, self.record = images.loss, images.record
        self.sums, self.summarize = images.sums, images.summarize

    @property
    def train_size(self) -> int:
        """Return the number of images of an epoch."""
        return self._images.train_size

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables."""
        return self.model.init(key, jnp.zeros((1, *self._images.dataset.image_size, 3)))

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Raise ValueError: explicit models start from random weights only."""
        raise ValueError(f"config.init_from is {source!r}, but config.app is 'baseline'; set None.")

    def forward(
        self,
        variables: Variables,
        batch: Batch,
        layer: Layer,
        *,
        train: bool,
        key: PRNGKeyArray | None = None,
        carry: PyTree = (),
    ) -> Forward:
        """Return the logits; there is no equilibrium."""
        return Forward(self.model.apply(variables, batch["image"]))

    def decode(self, variables: Variables, z: Any, batch: Batch, *, train: bool) -> PyTree:
        """Raise ValueError: there is no state to decode."""
        raise ValueError("an explicit model has no equilibrium state.")

    def predict(
        self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
    ) -> Prediction:
        """Return the logits of images, and the number of block evaluations for each image."""
        evaluations = jnp.full(len(batch["image"]), float(self.config.model.block_evaluations))
        outputs = self.model.apply(variables, batch["image"])
        return Prediction(outputs, {"block_evaluations": evaluations})


def create_experiment(config: Config) -> BaselineExperiment:
    """Return the experiment of a config."""
    return BaselineExperiment(config)
