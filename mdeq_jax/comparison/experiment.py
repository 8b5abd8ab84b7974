"""The explicit models as an application of their own.

    python train.py --config configs/digits_resnet.py --workdir runs/digits_resnet

They use the data, the loss and the metrics of the vision application.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from mdeq_jax.comparison.baselines import Config, ExplicitModel
from mdeq_jax.training.experiment import Batch, Forward, Layer, Prediction, Variables
from mdeq_jax.vision.experiment import VisionExperiment

__all__ = ["BaselineExperiment", "Config", "create_experiment"]


class BaselineExperiment(VisionExperiment):
    """`VisionExperiment` with an explicit model in place of the MDEQ."""

    def __init__(self, config: Config):
        """Find the data set and make the model.

        Args:
          config: the config of the run.

        Raises:
          ValueError: there is no such data set, or the model does not fit it.
        """
        super().__init__(config, ExplicitModel(config.model, config.compute_dtype))
        self._evaluations = float(config.model.block_evaluations)

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
        outputs = self.model.apply(variables, batch["image"])
        evaluations = jnp.full(len(outputs), self._evaluations)
        return Prediction(outputs, {"block_evaluations": evaluations})


def create_experiment(config: Config) -> BaselineExperiment:
    """Return the experiment of a config."""
    return BaselineExperiment(config)
