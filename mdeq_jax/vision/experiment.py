"""MDEQ as an experiment: classification and segmentation, one head or several."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

import grain
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.solvers import State
from mdeq_jax.torch_files.fitting import Imported, Inferred
from mdeq_jax.training.evaluation import solver_statistics
from mdeq_jax.training.experiment import (
    Batch,
    Evaluation,
    Forward,
    Layer,
    Metrics,
    Prediction,
    Score,
    Variables,
)
from mdeq_jax.training.mesh import AXIS
from mdeq_jax.vision.config import Config
from mdeq_jax.vision.data import Dataset, eval_batches, find_dataset, train_iterator
from mdeq_jax.vision.load import start_from
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.segment import padding
from mdeq_jax.vision.tasks import Task, make_task
from mdeq_jax.vision.torch_files.convert import import_with_report, infer_with_open_fields

__all__ = ["Config", "VisionExperiment", "create_experiment", "require_fit"]


class VisionExperiment:
    """A multiscale deep equilibrium model on images, as `Experiment` describes it.

    Attributes:
      config: the config of the run.
      dataset: the data set; each of its splits is opened once.
      task: loss and metrics.
      model: the model; it uses no mesh axis.
    """

    sample = "image"

    def __init__(self, config: Config, model: nn.Module | None = None):
        """Find the data set and make the model.

        Args:
          config: the config of the run.
          model: the model; None is the MDEQ of the config.

        Raises:
          ValueError: there is no such data set, or the model does not fit it.
        """
        self.config = config
        dataset = find_dataset(config.data)
        require_fit(config, dataset)
        self.dataset = dataclasses.replace(
            dataset,
            open_train=cache(dataset.open_train),
            open_eval=cache(dataset.open_eval),
            eval_image_size=cache(dataset.eval_image_size),
        )
        self.task: Task = make_task(config, self.dataset.class_names)
        self.model = model or create_model(config.model, dtype=config.compute_dtype)
        self.score = Score(f"eval/{self.task.score}")
        self.progress = {self.task.train_score: ".2%"}
        self.record_name = self.task.output_name

    @property
    def train_size(self) -> int:
        """Return the number of images of an epoch."""
        return len(self.dataset.open_train())

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables."""
        return self.model.init(key, jnp.zeros((1, *self.dataset.image_size, 3)))

    def init_carry(self, batch_size: int) -> PyTree:
        """Return (): images are independent."""
        return ()

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Return variables with the weights of a checkpoint or PyTorch file, by `start_from`."""
        allowed = self.config.init_from_allow_missing
        return start_from(variables, source, self.config.model, allow_missing=allowed)

    def train_batches(self) -> grain.DatasetIterator:
        """Return this process's share of shuffled, augmented batches."""
        return train_iterator(self.config.data, seed=self.config.seed, dataset=self.dataset)

    def evaluations(self) -> Mapping[str, Evaluation]:
        """Return the one evaluation, "eval"; raises ValueError if its images are missing."""
        self.dataset.open_eval()
        batches = partial(eval_batches, self.config.data, dataset=self.dataset)
        return {"eval": Evaluation(batches)}

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with its uint8 images normalised."""
        return {**batch, "image": self.dataset.normalise(batch["image"])}

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
        """Return logits, solution and running statistics for images of any size."""
        collections = {name: tree for name, tree in variables.items() if name != "params"}
        if not train:
            pads = padding(batch["image"].shape, self.config.model.size_divisor)
            output: Any = self.model.apply(variables, jnp.pad(batch["image"], pads), deq=layer)
            logits, info = output
            return Forward(logits, info.solution, collections)
        # In training, batch statistics are taken over all devices.
        output = self.model.clone(axis_name=AXIS).apply(
            variables,
            batch["image"],
            deq=layer,
            train=True,
            rngs=None if key is None else {"dropout": key},
            mutable=list(collections),
        )
        (logits, info), collections = output
        return Forward(logits, info.solution, collections)

    def decode(self, variables: Variables, z: State, batch: Batch, *, train: bool) -> PyTree:
        """Return the logits of a state."""
        if not train:
            return self.model.apply(variables, z, method="predict")
        # The new running statistics are dropped.
        output: Any = self.model.clone(axis_name=AXIS).apply(
            variables, z, train=True, method="predict", mutable=["batch_stats"]
        )
        return output[0]

    def loss(
        self, variables: Variables, outputs: PyTree, batch: Batch, axis_name: str | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the loss and the metrics of the task."""
        loss = self.task.loss(outputs, batch, axis_name)
        return loss, self.task.train_metrics(outputs, batch, axis_name)

    def predict(
        self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
    ) -> Prediction:
        """Return the logits of images under config.inference, and solver statistics."""

        def forward(images: Float[Array, "B H W 3"]) -> tuple[PyTree, PyTree]:
            output: Any = self.model.apply(variables, images, deq=layer)
            logits, info = output
            return logits, solver_statistics(self.config, info.solution)

        return Prediction(*self.task.predict(forward, batch["image"]))

    def sums(self, outputs: PyTree, batch: Batch) -> Mapping[str, PyTree]:
        """Return the sums of the task."""
        return self.task.sums(outputs, batch)

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return the metrics of the task."""
        return self.task.summarize(sums)

    def record(self, outputs: PyTree) -> Array:
        """Return logits, or for segmentation the label of every pixel."""
        return self.task.output(outputs)


def create_experiment(config: Config) -> VisionExperiment:
    """Return the experiment of a config."""
    return VisionExperiment(config)


def import_torch(
    config: Config,
    path: str | os.PathLike[str],
    *,
    allow_missing: Iterable[str],
    drop: Iterable[str],
) -> Imported:
    """Return the variables of `config.model` from a PyTorch file, and where they come from.

    Args:
      config: config whose section ``model`` is the architecture.
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      allow_missing: PyTorch names, with ``*`` for any part, of arrays that get initial values if
        they are missing in the file.
      drop: PyTorch names, with ``*`` for any part, of arrays that are not read from the file.

    Raises:
      ValueError: the file cannot be read, or does not fit the architecture.
    """
    return import_with_report(path, config.model, allow_missing=allow_missing, drop=drop)


def infer(path: str | os.PathLike[str], given: Mapping[str, Any]) -> Inferred:
    """Return the architecture in a file, and its fields that the file does not determine.

    Args:
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      given: values for fields of `ModelConfig` that the file does not determine.

    Raises:
      ValueError: the file cannot be read, does not hold an MDEQ, or contradicts `given`.
    """
    return infer_with_open_fields(path, given)


def require_fit(config: Config, dataset: Dataset) -> None:
    """Raise ValueError unless the configured model fits the data set.

    Args:
      config: the config of the run.
      dataset: the data set, as `find_dataset` returns it.
    """
    name, num_classes = config.data.name, len(dataset.class_names)
    offered = {dataset.task, *(["classification"] if dataset.image_labels else [])}
    if config.model.task not in offered:
        raise ValueError(
            f"config.model.task is {config.model.task!r}, but data set {name!r} is for "
            f"{dataset.task}; set it to that."
        )
    if "classification" in config.model.extra_heads and not dataset.image_labels:
        raise ValueError(
            f"config.model.extra_heads is {config.model.extra_heads}, but data set {name!r} has no "
            "label for an image as a whole; leave 'classification' out."
        )
    if num_classes != config.model.num_classes:
        raise ValueError(
            f"config.model.num_classes is {config.model.num_classes}, but data set "
            f"{name!r} has {num_classes} classes; set it to that."
        )
