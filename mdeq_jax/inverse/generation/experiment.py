"""A generator with optimised or encoded latent codes as an experiment, and its inverse problems.

    optimised: image → (x, z, μ) = the optimum of ‖h(z) − image‖² with z = f(z, x) → h(z)
    encoded:   image → encoder → x → z = f(z, x) → h(z)

Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021, section 4.1; locuslab/JIIO-DEQ.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.implicit import Solution
from mdeq_jax.inverse.generation.config import Config
from mdeq_jax.inverse.generation.corruption import draw_corruption
from mdeq_jax.inverse.generation.data import Images, image_size, load_images
from mdeq_jax.inverse.generation.inversion import Inversion, plain_kernels
from mdeq_jax.inverse.generation.metrics import (
    corrupted_name,
    mean_squared_errors,
    metric,
    psnr,
)
from mdeq_jax.inverse.generation.model.encoder import Encoder
from mdeq_jax.inverse.generation.model.generator import Generator, init_params
from mdeq_jax.inverse.generation.observations import Observation, inverse_problems, observe
from mdeq_jax.inverse.generation.prior import (
    Prior,
    fitted_prior,
    initial_statistics,
    isotropic_prior,
    next_statistics,
)
from mdeq_jax.solvers import initial_state
from mdeq_jax.training.evaluation import masked_sums, solver_statistics
from mdeq_jax.training.experiment import (
    Batch,
    Evaluation,
    Forward,
    Layer,
    Metrics,
    Prediction,
    Score,
    Variables,
    first_row,
)
from mdeq_jax.training.loaders import eval_batches, shuffled_batches
from mdeq_jax.training.weights import load_matching

__all__ = ["Config", "Generation", "create_experiment"]

CHANNELS = 1


class Generation:
    """A generator of images, as `Experiment` describes it.

    Attributes:
      config: the config of the run.
      model: the generator.
      inversion: the optimisation of latent codes.
    """

    sample = "image"
    score = Score("eval/psnr")
    progress: Mapping[str, str] = {"psnr": ".2f"}
    record_name = "images"

    def __init__(self, config: Config):
        """Make the model; raises ValueError if the hidden box is larger than the images."""
        self.config = config
        self.model = Generator(config.model, image_size(config.data), CHANNELS)
        self.inversion = Inversion(self.model, config.optimise.steps())
        self._encoder = Encoder(config.model)
        self._corrupt(np.zeros((*self.model.size, CHANNELS), np.float32), 0)

    @functools.cached_property
    def train_images(self) -> Images:
        """The images to train on."""
        return load_images(self.config.data, "train")

    @functools.cached_property
    def test_images(self) -> Images:
        """The images of the evaluation."""
        return load_images(self.config.data, "test")

    @property
    def encoded(self) -> bool:
        """Whether an encoder returns the latent codes, as in a variational autoencoder."""
        return self.config.model.latents == "encoded"

    @property
    def prior(self) -> Prior:
        """The prior of the codes of clean images."""
        # A variational autoencoder's codes have the variance 1, and its pixels kl / 2.
        options = self.config.loss
        weight = options.kl / 2 if self.encoded else options.prior
        return isotropic_prior(weight, self.config.model.latent_size)

    def prior_of_corrupted(self, variables: Variables, noise: float) -> Prior:
        """Return the prior of the codes of corrupted images.

        Args:
          variables: the variables, with the statistics of training.
          noise: standard deviation of the noise in the pixels, at least 0.
        """
        return fitted_prior(variables["statistics"], noise, self.config.optimise.x_step)

    @property
    def train_size(self) -> int:
        """Return the number of images to train on."""
        return len(self.train_images)

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables: parameters of "generator", and of "encoder" if there is one.

        The collection "statistics" has running means of training: "mean" and "covariance" of the
        latent codes, and "error", the mean squared error of a pixel.
        """
        params = {"generator": init_params(self.model, key)}
        if self.encoded:
            images = jax.ShapeDtypeStruct((1, *self.model.size, CHANNELS), jnp.float32)
            encoder: Any = self._encoder.lazy_init(jax.random.fold_in(key, 1), images)
            params["encoder"] = encoder["params"]
        return {"params": params, "statistics": initial_statistics(self.config.model.latent_size)}

    def init_carry(self, batch_size: int) -> PyTree:
        """Return (): images are independent."""
        return ()

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Return variables with the weights of a checkpoint, and the names of missing arrays."""
        return load_matching(variables, source, self.config.init_from_allow_missing)

    def train_batches(self) -> grain.DatasetIterator:
        """Return this process's share of shuffled batches."""
        images = self.train_images
        return shuffled_batches(
            range(len(images)),
            lambda number, generator: {"image": images[number]},
            self.config.data,
            seed=self.config.seed,
        )

    def evaluations(self) -> Mapping[str, Evaluation]:
        """Return the one evaluation, "eval", of the reconstruction and of all inverse problems."""
        return {"eval": Evaluation(self.test_batches)}

    def test_batches(self) -> grain.DatasetIterator:
        """Return one pass over this process's share of the test images and their corruptions."""
        images = self.test_images
        return eval_batches(
            range(len(images)),
            lambda number: self._corrupt(images[number], number),
            self.config.data,
        )

    def _corrupt(self, image: Float[np.ndarray, "H W C"], number: int) -> dict[str, np.ndarray]:
        box = self.config.evaluation.box
        corruption = draw_corruption(self.config.seed, number, image.shape, box)
        return {"image": image, **corruption._asdict()}

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch unchanged."""
        return batch

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
        """Return the outputs of `decode`.

        "cost" of an optimised latent code has the gradient of the envelope theorem. With encoded
        codes there are also "mean" and "log_variance" (B, n); a code is drawn from them in
        training, and otherwise is the mean.
        """
        if self.encoded:
            return self._forward_encoded(variables, batch, layer, train=train, key=key)
        clean = observe(batch["image"], self.prior)
        optimum = self.inversion.restore(variables, clean, layer)
        outputs = self.decode(variables, optimum.solution.z, batch, train=train)
        outputs["cost"] = optimum.cost
        passed = self._passed(variables, batch, optimum.x, outputs, optimum.solution, train=train)
        return passed._replace(cell=optimum.cell)

    def _forward_encoded(
        self,
        variables: Variables,
        batch: Batch,
        layer: Layer,
        *,
        train: bool,
        key: PRNGKeyArray | None,
    ) -> Forward:
        encoder = {"params": variables["params"]["encoder"]}
        code: Any = self._encoder.apply(encoder, batch["image"])
        mean, log_variance = code
        x = mean
        if key is not None:
            noise = initial_state(key, x, "normal", first_row(batch))
            x = x + jnp.exp(log_variance / 2) * noise
        solution = layer(*self.inversion.problem(variables, x))
        outputs = self.decode(variables, solution.z, batch, train=train)
        outputs |= {"mean": mean, "log_variance": log_variance}
        return self._passed(variables, batch, x, outputs, solution, train=train)

    def _passed(
        self,
        variables: Variables,
        batch: Batch,
        x: Float[Array, "B n"],
        outputs: dict[str, Array],
        solution: Solution,
        *,
        train: bool,
    ) -> Forward:
        """Return a forward pass, in training with the next running means."""
        statistics = variables["statistics"]
        if train:
            statistics = next_statistics(statistics, x, outputs["image"], batch["image"])
        return Forward(outputs, solution, collections={"statistics": statistics})

    def decode(
        self, variables: Variables, z: PyTree, batch: Batch, *, train: bool
    ) -> dict[str, Array]:
        """Return "image" (B, H, W, C), pixels in [0, 1], and "cost" (B,) of optimised codes.

        A state of optimised latent codes is one of the augmented map.
        """
        if self.encoded:
            return {"image": self.inversion.image(variables, z)}
        args = plain_kernels(variables), observe(batch["image"], self.prior)
        image, cost = self.inversion.image(variables, z.z), self.inversion.cost(z.z, z.x, args)
        return {"image": image, "cost": cost}

    def loss(
        self, variables: Variables, outputs: PyTree, batch: Batch, axis_name: str | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the mean over images of the cost, or of squared error and weighted divergence."""
        errors = mean_squared_errors(outputs["image"], batch["image"])
        metrics = {"psnr": psnr(errors.mean())}
        if not self.encoded:
            return outputs["cost"].mean(), metrics
        loss = math.prod(batch["image"].shape[1:]) * errors.mean()
        if "mean" in outputs:
            mean, log_variance = outputs["mean"], outputs["log_variance"]
            kl = (jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1).sum(axis=-1) / 2
            metrics["kl"] = kl.mean()
            loss += self.config.loss.kl * metrics["kl"]
        return loss, metrics

    def predict(
        self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
    ) -> Prediction:
        """Return images by the ends of the names of their metrics, and the solvers' statistics.

        "" is the reconstruction; restored and corrupted images follow. With encoded latent codes,
        "optimised" is the reconstruction from the best code instead of the encoder's.
        """
        prior = functools.partial(self.prior_of_corrupted, variables)
        problems = {
            "optimised" if self.encoded else "": observe(batch["image"], self.prior),
            **inverse_problems(batch, self.config.evaluation.noise, prior),
        }

        def restore(seen: Observation) -> tuple[Array, dict[str, Array]]:
            optimum = self.inversion.restore(variables, seen, layer)
            image = self.inversion.image(variables, optimum.z)
            return image, solver_statistics(self.config, optimum.solution)

        # One after the other in a loop, so that the solve is compiled once.
        together = jax.tree.map(lambda *each: jnp.stack(each), *problems.values())
        images, solved = lax.map(restore, together)
        outputs, statistics = {}, {}
        for i, (name, seen) in enumerate(problems.items()):
            outputs |= {corrupted_name(name): seen.pixels, name: images[i]}
            statistics |= {metric(key, name): value[i] for key, value in solved.items()}
        if self.encoded:
            found = self.forward(variables, batch, layer, train=False)
            outputs[""] = found.outputs["image"]
            statistics |= solver_statistics(self.config, found.solution)
        return Prediction(outputs, statistics, carry)

    def sums(self, outputs: PyTree, batch: Batch) -> Mapping[str, PyTree]:
        """Return the sums of the mean squared errors of all images."""
        errors = {
            metric("psnr", name): mean_squared_errors(image, batch["image"])
            for name, image in outputs.items()
        }
        return masked_sums(errors, batch["mask"])

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return the peak signal-to-noise ratio of each kind of images, from their mean error."""
        return {
            name: float(psnr(total / sums["count"]))
            for name, total in sums.items()
            if name.startswith("psnr")
        }

    def record(self, outputs: PyTree) -> Array:
        """Return the reconstructions, (B, H, W, C)."""
        return outputs[""]


def create_experiment(config: Config) -> Generation:
    """Return the experiment of a config."""
    return Generation(config)
