"""Tasks: losses, metrics and outputs of classification, segmentation, and both at once.

All tasks have the same attributes and methods. `score` is the evaluation metric that ranks models;
higher is better. `train_score` is the training metric that the progress line shows. `output_name`
is the name of the array that evaluation writes for the images.

Logits are an array; with extra heads, a dict of arrays. Where a method takes the name of a mesh
axis, the batch is split over the devices of the axis, and the mean of the devices' values is the
value of the whole batch. `sums` leaves out images where ``batch["mask"]`` is False; its sums add up
over batches. `summarize` takes these sums and ``count``, the number of images.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from mdeq_jax.layers.resize import resize_bilinear
from mdeq_jax.training.evaluation import masked_sums
from mdeq_jax.training.experiment import Batch, Metrics
from mdeq_jax.training.losses import masked_mean
from mdeq_jax.vision.config import IGNORE, Config, InferenceConfig, LossConfig
from mdeq_jax.vision.confusion import confusion_matrix, segmentation_metrics
from mdeq_jax.vision.losses import pixel_cross_entropy, pixel_weights, segmentation_loss
from mdeq_jax.vision.segment import padding, segment

# A function from images to logits, an array or a dict of arrays, and any other pytree.
Apply = Callable[[Float[Array, "B H W 3"]], tuple[PyTree, PyTree]]


@dataclasses.dataclass(frozen=True)
class Classification:
    """One label per image: "image_label" if the batch has it, otherwise "label"."""

    score: ClassVar[str] = "accuracy"
    train_score: ClassVar[str] = "accuracy"
    output_name: ClassVar[str] = "logits"

    def loss(
        self, logits: Float[Array, "B num_classes"], batch: Batch, axis_name: str | None = None
    ) -> Float[Array, ""]:
        """Return the mean cross-entropy."""
        return cross_entropy(logits, _image_label(batch)).mean()

    def train_metrics(
        self, logits: Float[Array, "B num_classes"], batch: Batch, axis_name: str | None = None
    ) -> Metrics:
        """Return the accuracy."""
        return {"accuracy": (logits.argmax(-1) == _image_label(batch)).mean()}

    def predict(
        self, forward: Apply, images: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B num_classes"], PyTree]:
        """Return the logits of the images at their own size."""
        return forward(images)

    def sums(self, logits: Float[Array, "B num_classes"], batch: Batch) -> dict[str, Array]:
        """Return the sums of loss and accuracy."""
        label = _image_label(batch)
        values = {"loss": cross_entropy(logits, label), "accuracy": logits.argmax(-1) == label}
        return masked_sums(values, batch["mask"])

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the means of loss and accuracy."""
        return {name: float(sums[name] / sums["count"]) for name in ("accuracy", "loss")}

    def output(self, logits: Float[Array, "B num_classes"]) -> Float[Array, "B num_classes"]:
        """Return the logits."""
        return logits


def _image_label(batch: Batch) -> Int[Array, " B"]:
    return batch.get("image_label", batch["label"])


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """One label per pixel.

    Attributes:
      options: options of the loss.
      inference: scales, windows and mirroring in evaluation.
      divisor: the number by which the sides of the model's images must be divisible.
      class_names: name of each class.
    """

    options: LossConfig
    inference: InferenceConfig
    divisor: int
    class_names: tuple[str, ...]
    score: ClassVar[str] = "miou"
    train_score: ClassVar[str] = "pixel_accuracy"
    output_name: ClassVar[str] = "labels"

    def loss(
        self, logits: Float[Array, "B h w num_classes"], batch: Batch, axis_name: str | None = None
    ) -> Float[Array, ""]:
        """Return the loss of `segmentation_loss`."""
        labels = batch["label"]
        # Pixels that `VisionExperiment.forward` padded do not count.
        labels = jnp.pad(labels, padding(labels.shape, self.divisor), constant_values=IGNORE)
        return segmentation_loss(logits, labels, self.options, axis_name)

    def train_metrics(
        self, logits: Float[Array, "B h w num_classes"], batch: Batch, axis_name: str | None = None
    ) -> Metrics:
        """Return the share of pixels that are predicted correctly."""
        labels = batch["label"]
        right = resize_bilinear(logits, labels.shape[1:]).argmax(-1) == labels
        return {"pixel_accuracy": masked_mean(right, labels != IGNORE, axis_name)}

    def predict(
        self, forward: Apply, images: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B H W num_classes"], PyTree]:
        """Return the logits of every pixel, by `segment`."""
        return segment(forward, images, self.inference, self.divisor)

    def sums(self, logits: Float[Array, "B H W num_classes"], batch: Batch) -> dict[str, Array]:
        """Return the confusion matrix, and the sums of the weighted loss and of the weights."""
        labels = jnp.where(batch["mask"][:, None, None], batch["label"], IGNORE)
        weights = pixel_weights(labels, self.options.class_weights)
        return {
            "confusion": confusion_matrix(labels, logits.argmax(-1), logits.shape[-1]),
            "loss": (weights * pixel_cross_entropy(logits, labels)).sum(),
            "weight": weights.sum(),
        }

    def summarize(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return `segmentation_metrics` and the class-weighted mean of the loss."""
        metrics = segmentation_metrics(sums["confusion"], self.class_names)
        return {**metrics, "loss": float(sums["loss"] / sums["weight"])}

    def output(self, logits: Float[Array, "B H W num_classes"]) -> UInt8[Array, "B H W"]:
        """Return the label of every pixel."""
        return logits.argmax(-1).astype(jnp.uint8)


class Part(NamedTuple):
    """The task of one head of a `MultiTask`.

    Attributes:
      task: the head's task.
      weight: weight of the part's loss in the sum.
    """

    task: Classification | Segmentation
    weight: float


@dataclasses.dataclass(frozen=True)
class MultiTask:
    """The tasks of a segmentation model with extra heads; the loss is Σ weight · loss of a part.

    The names of metrics begin with the part's name. The heads of single branches serve training
    only: evaluation leaves them out.

    Attributes:
      parts: the parts by the names of their heads' logits; "segmentation" is one of them.
    """

    parts: Mapping[str, Part]
    score: ClassVar[str] = f"segmentation_{Segmentation.score}"
    train_score: ClassVar[str] = f"segmentation_{Segmentation.train_score}"
    output_name: ClassVar[str] = Segmentation.output_name

    def loss(
        self, logits: Mapping[str, Array], batch: Batch, axis_name: str | None = None
    ) -> Float[Array, ""]:
        """Return the weighted sum of the losses."""
        losses = [
            part.weight * part.task.loss(logits[name], batch, axis_name)
            for name, part in self.parts.items()
        ]
        return jnp.stack(losses).sum()

    def train_metrics(
        self, logits: Mapping[str, Array], batch: Batch, axis_name: str | None = None
    ) -> Metrics:
        """Return each part's loss and training metrics."""
        metrics = {}
        for name, (task, _) in self.parts.items():
            loss = task.loss(logits[name], batch, axis_name)
            rest = task.train_metrics(logits[name], batch, axis_name)
            metrics |= _prefixed(name, {"loss": loss, **rest})
        return metrics

    def predict(
        self, forward: Apply, images: Float[Array, "B H W 3"]
    ) -> tuple[dict[str, Array], PyTree]:
        """Return the logits of every pixel, by `segment`, and the logits of each image.

        The logits of an image, like the statistics, are means over the passes.
        """

        def of_pixels(images: Float[Array, "B H W 3"]) -> tuple[Array, PyTree]:
            logits, statistics = forward(images)
            of_image = {name: logits[name] for name in ("classification",) if name in logits}
            return logits["segmentation"], (of_image, statistics)

        segmentation = self.parts["segmentation"].task
        logits, (of_image, statistics) = segmentation.predict(of_pixels, images)
        return {"segmentation": logits, **of_image}, statistics

    def sums(self, logits: Mapping[str, Array], batch: Batch) -> dict[str, PyTree]:
        """Return the sums of each part for which `predict` returns logits, by part name."""
        return {name: self.parts[name].task.sums(x, batch) for name, x in logits.items()}

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return the metrics of each part that has sums."""
        metrics = {}
        for name in (name for name in self.parts if name in sums):
            part_sums = {**sums[name], "count": sums["count"]}
            metrics |= _prefixed(name, self.parts[name].task.summarize(part_sums))
        return metrics

    def output(self, logits: Mapping[str, Array]) -> UInt8[Array, "B H W"]:
        """Return the label of every pixel."""
        return self.parts["segmentation"].task.output(logits["segmentation"])


Task = Classification | Segmentation | MultiTask


def _prefixed(name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_{metric}": value for metric, value in metrics.items()}


def make_task(config: Config, class_names: Sequence[str] = ()) -> Task:
    """Return the task of a config.

    Args:
      config: the config of the run, with the model's task and the sections loss and inference.
      class_names: names of the classes in the metrics of single classes; their numbers by default.
    """
    if config.model.task == "classification":
        return Classification()
    names = class_names or [str(k) for k in range(config.model.num_classes)]
    divisor = config.model.size_divisor
    segmentation = Segmentation(config.loss, config.inference, divisor, tuple(names))
    if not config.model.extra_heads:
        return segmentation
    parts = {"segmentation": Part(segmentation, 1.0)}
    if "classification" in config.model.extra_heads:
        parts["classification"] = Part(Classification(), config.loss.classification_weight)
    if "scales" in config.model.extra_heads:
        scale = Part(segmentation, config.loss.scale_weight)
        parts |= {f"scale_{i}": scale for i in range(config.model.num_branches)}
    return MultiTask(parts)
