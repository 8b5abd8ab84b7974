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
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.implicit import FixedPointProblem
from mdeq_jax.implicit.optimise import Optimum
from mdeq_jax.inverse.generation.config import Config
from mdeq_jax.inverse.generation.corruption import draw_corruption
from mdeq_jax.inverse.generation.data import Images, image_size, load_images
from mdeq_jax.inverse.generation.inversion import Inversion, Observation
from mdeq_jax.inverse.generation.model.encoder import Encoder
from mdeq_jax.inverse.generation.model.generator import Generator, init_params
from mdeq_jax.layers import weight_norm
from mdeq_jax.solvers import State
from mdeq_jax.solvers.keys import normal_like, sample_keys
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
    def train_size(self) -> int:
        """Return the number of images to train on."""
        return len(self.train_images)

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables: parameters of "generator", and of "encoder" if there is one."""
        params = {"generator": init_params(self.model, key)}
        if self.encoded:
            images = jax.ShapeDtypeStruct((1, *self.model.size, CHANNELS), jnp.float32)
            encoder: Any = self._encoder.lazy_init(jax.random.fold_in(key, 1), images)
            params["encoder"] = encoder["params"]
        return {"params": params}

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
            return self._forward_encoded(variables, batch, layer, key if train else None)
        optimum = self.restore(variables, self._whole(batch), layer)
        outputs = self.decode(variables, optimum.solution.z, batch, train=train)
        return Forward({**outputs, "cost": optimum.cost}, optimum.solution)

    def _forward_encoded(
        self, variables: Variables, batch: Batch, layer: Layer, key: PRNGKeyArray | None
    ) -> Forward:
        encoder = {"params": variables["params"]["encoder"]}
        mean, log_variance = self._encoder.apply(encoder, batch["image"])
        x = mean
        if key is not None:
            keys = sample_keys(key, x, first_row(batch))
            x = x + jnp.exp(log_variance / 2) * normal_like(keys, x)
        solution = layer(*self.problem(variables, x))
        outputs = self.decode(variables, solution.z, batch, train=key is not None)
        return Forward({**outputs, "mean": mean, "log_variance": log_variance}, solution)

    def problem(self, variables: Variables, x: Float[Array, "B n"]) -> FixedPointProblem:
        """Return the fixed-point problem of latent codes."""
        f = lambda z, args: self.inversion.cell(z, args[1], args)  # noqa: E731
        return FixedPointProblem(f, self.inversion.start(x), (self._merged(variables), x))

    def restore(self, variables: Variables, seen: Observation, layer: Layer) -> Optimum:
        """Return the latent codes that show observed images best, and their equilibria."""
        x0 = jnp.zeros((len(seen.pixels), self.config.model.latent_size), seen.pixels.dtype)
        return self.inversion(self._merged(variables), seen, x0, layer)

    def image(self, variables: Variables, z: State) -> Float[Array, "B H W C"]:
        """Return the images of equilibria, with pixels in [0, 1]."""
        return self.inversion.image(self._merged(variables), z)

    def decode(self, variables: Variables, z: PyTree, batch: Batch, *, train: bool) -> PyTree:
        """Return "image" (B, H, W, C), pixels in [0, 1], and "cost" (B,) of optimised codes.

        A state of optimised latent codes is one of the augmented map.
        """
        if self.encoded:
            return {"image": self.image(variables, z)}
        args = self._merged(variables), self._whole(batch)
        return {
            "image": self.image(variables, z.z),
            "cost": self.inversion.cost(z.z, z.x, args),
        }

    def _merged(self, variables: Variables) -> PyTree:
        return weight_norm.merge(variables["params"]["generator"])

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

        "" is the reconstruction. The others are restored and corrupted images of `observations`.
        """
        problems = self.observations(batch)
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *problems.values())
        optimum = self.restore(variables, together, layer)
        solved = solver_statistics(self.config, optimum.solution)
        images = self.image(variables, optimum.z)
        outputs, statistics, start = {}, {}, 0
        for name, seen in problems.items():
            rows = slice(start, start := start + len(seen.pixels))
            outputs |= {_corrupted_name(name): seen.pixels, name: images[rows]}
            statistics |= {metric(key, name): value[rows] for key, value in solved.items()}
        if self.encoded:
            found = self.forward(variables, batch, layer, train=False)
            outputs[""] = found.outputs["image"]
            statistics |= solver_statistics(self.config, found.solution)
        return Prediction(outputs, statistics, carry)

    def observations(self, batch: Batch) -> dict[str, Observation]:
        """Return the inverse problems of a batch with "image", "noise" and "visible".

        They are "denoise" for each level of noise, "inpaint", and the reconstruction of the image
        itself, "". With encoded latent codes, whose reconstruction is the encoder's, it is called
        "optimised".
        """
        options, image = self.config.evaluation, batch["image"]
        problems = {"optimised" if self.encoded else "": self._whole(batch)}
        for level in options.noise:
            name = "denoise" if level == options.noise[0] else f"denoise_{level}"
            problems[name] = self.observe(image + level * batch["noise"], noise=level)
        visible = batch["visible"]
        return problems | {"inpaint": self.observe(image * visible, visible)}

    def _whole(self, batch: Batch) -> Observation:
        """Return the observation of all pixels, without noise."""
        return self.observe(batch["image"])

    def observe(
        self,
        pixels: Float[Array, "B H W C"],
        visible: Float[Array, "B H W 1"] | None = None,
        noise: float = 0.0,
    ) -> Observation:
        """Return an observation of images, with the prior of their latent codes.

        Args:
          pixels: what is seen of the images.
          visible: 1 where a pixel is known, 0 where it is hidden; None hides no pixel.
          noise: standard deviation of the noise in the pixels.
        """
        options = self.config.loss
        # The codes of a variational autoencoder have the variance 1, and its pixels kl / 2.
        prior = options.kl / 2 if self.encoded else options.prior
        prior += self.config.evaluation.noise_prior * noise**2
        visible = jnp.ones_like(pixels[..., :1]) if visible is None else visible
        return Observation(pixels, visible, jnp.full(len(pixels), prior, pixels.dtype))

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


def _corrupted_name(name: str) -> str:
    """Return what the images are called that images of a name are restored from."""
    return name.replace("denoise", "noisy").replace("inpaint", "masked")


def metric(name: str, end: str) -> str:
    """Return the name of a metric of one kind of images, such as "psnr_denoise"."""
    return f"{name}_{end}" if end else name


def mean_squared_errors(
    images: Float[Array, "B H W C"], others: Float[Array, "B H W C"]
) -> Float[Array, " B"]:
    """Return the mean squared error of each image, over all its pixels."""
    return jnp.square(images - others).mean(axis=(1, 2, 3))


def psnr(error: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Return the peak signal-to-noise ratio −10 log10(error) in dB, for pixels in [0, 1].

    Args:
      error: mean squared error.
    """
    return -10 * jnp.log10(error)


def create_experiment(config: Config) -> Generation:
    """Return the experiment of a config."""
    return Generation(config)
