"""A trained model applied to one image at a time, from a cold or a warm start."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from mdeq_jax.solvers import State
from mdeq_jax.training.evaluation import evaluation_layer, solver_statistics
from mdeq_jax.training.experiment import Layer
from mdeq_jax.training.weights import Trained
from mdeq_jax.vision.experiment import VisionExperiment
from mdeq_jax.vision.segment import padding


class ImagePrediction(NamedTuple):
    """The prediction of an image.

    Attributes:
      output: (H, W) uint8 labels, or (num_classes,) logits.
      statistics: solver_steps, residual and converged; cold_solver_steps as well, if the frame was
        also solved from a cold start.
    """

    output: np.ndarray
    statistics: dict[str, float]


class Predictor:
    """Predicts each image by itself."""

    def __init__(self, trained: Trained, experiment: VisionExperiment):
        """Prepare the model.

        Args:
          trained: the trained model.
          experiment: the experiment, with model, solver and inference options.
        """
        config = experiment.config
        self._variables = trained.variables
        self._divisor = config.model.size_divisor
        # Pad on the host, so that images of similar sizes share one compiled function.
        self._pads = config.model.task == "segmentation" and config.inference.is_plain
        unrolled = trained.config.train.unrolled_at(trained.step)
        layer = Layer(evaluation_layer(config, unrolled))

        @jax.jit
        def run(variables: PyTree, images: Array) -> tuple[Array, PyTree]:
            prediction = experiment.predict(variables, {"image": images}, layer, ())
            return experiment.record(prediction.outputs), prediction.statistics

        self._run = run

    def __call__(self, image: Float[np.ndarray, "H W 3"]) -> ImagePrediction:
        """Return the prediction of a normalised image."""
        images, (height, width, _) = image[None], image.shape
        if self._pads:
            images = np.pad(images, padding(images.shape, self._divisor))
        output, statistics = self._run(self._variables, images)
        rows = np.asarray(output[0])
        return ImagePrediction(rows[:height, :width] if self._pads else rows, _numbers(statistics))


class FramePredictor:
    """Predicts frames of a film in order, each from the equilibrium of the previous frame."""

    def __init__(self, trained: Trained, experiment: VisionExperiment, *, compare: bool):
        """Prepare the model.

        Args:
          trained: the trained model.
          experiment: the experiment, with model and solver.
          compare: whether each frame is also solved from a cold start, to count the steps saved.

        Raises:
          ValueError: config.inference takes several passes over an image, or the checkpoint's cell
            is still unrolled.
        """
        config = experiment.config
        if not config.inference.is_plain:
            raise ValueError(
                "--warm-start is for one pass over an image, but config.inference is "
                f"{config.inference}; leave flip, scales and window at their defaults."
            )
        if trained.config.train.unrolled_at(trained.step) is not None:
            raise ValueError(
                f"the checkpoint is of step {trained.step}, where the cell is still unrolled "
                "(config.train.pretrain_steps), and --warm-start is for solves; leave it out."
            )
        self._variables, self._compare = trained.variables, compare
        self._last: State | None = None
        layer, model = evaluation_layer(config), experiment.model

        def solve(
            variables: PyTree, images: Array, z0: State | None
        ) -> tuple[Array, PyTree, State]:
            forward: Any = functools.partial(model.apply, variables, deq=layer, z0=z0)
            logits, info = experiment.task.predict(forward, images)
            statistics = solver_statistics(config, info.solution)
            return experiment.record(logits), statistics, info.z

        self._run = jax.jit(solve)

        @functools.cache
        def cold_start(shape: tuple[int, ...]) -> State:
            images = jax.ShapeDtypeStruct(shape, jnp.float32)
            _, _, z = jax.eval_shape(solve, trained.variables, images, None)
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), z)

        self._cold_start = cold_start

    def __call__(self, image: Float[np.ndarray, "H W 3"]) -> ImagePrediction:
        """Return the prediction of the next normalised frame."""
        images = image[None]
        cold = self._cold_start(images.shape)
        # A frame of another size begins a new film.
        warm = self._last if _shapes(self._last) == _shapes(cold) else cold
        output, statistics, self._last = self._run(self._variables, images, warm)
        numbers = _numbers(statistics)
        if self._compare:
            _, statistics, _ = self._run(self._variables, images, cold)
            numbers["cold_solver_steps"] = _numbers(statistics)["solver_steps"]
        return ImagePrediction(np.asarray(output[0]), numbers)


def _shapes(z: State | None) -> PyTree:
    return jax.tree.map(jnp.shape, z)


def _numbers(statistics: dict[str, Array]) -> dict[str, float]:
    """Return the statistics of a batch of one image as numbers."""
    return {name: float(value[0]) for name, value in jax.device_get(statistics).items()}
