"""Adversarial training of an equilibrium classifier as an experiment.

    minimise over the weights the maximum over ‖δ‖ ≤ ε of CE(head(z), y),
    where z = cell(z, inject(image + δ))

The method "joint" finds δ and z together, as the fixed point of one augmented map. By the envelope
theorem the gradient of the maximum needs no adjoint solve. The method "pgd" is the control.

Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from mdeq_jax.images.digits import load_raw
from mdeq_jax.implicit import Augmented, FixedPointProblem, Optimum, Solution, optimise
from mdeq_jax.inverse.adversarial import attacks
from mdeq_jax.inverse.adversarial.attacks import Ball, MarginGradient, hard_margin, soft_margin
from mdeq_jax.inverse.adversarial.config import Config
from mdeq_jax.inverse.adversarial.model import Classifier
from mdeq_jax.solvers import State
from mdeq_jax.solvers.keys import fold_in_each, sample_keys
from mdeq_jax.solvers.norms import vary_together
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

__all__ = ["AdversarialTraining", "Config", "create_experiment"]

Margin = Callable[[Float[Array, "B classes"], Int[Array, " B"]], Float[Array, " B"]]
# What the augmented map does not change: parameters, images, labels.
Arguments = tuple[PyTree, Float[Array, "B 8 8 1"], Int[Array, " B"]]


class AdversarialTraining:
    """A classifier of digits under attack, as `Experiment` describes it.

    Attributes:
      config: the config of the run.
      model: the classifier.
      ball: the perturbations that are allowed.
    """

    sample = "image"
    score = Score("eval/accuracy_robust")
    progress: Mapping[str, str] = {"accuracy": ".1%"}
    record_name = "classes"

    def __init__(self, config: Config):
        """Load the digits and make the model."""
        self.config = config
        self.model = Classifier(config.model.width, config.model.groups)
        self.ball = Ball(config.attack.norm, config.attack.epsilon)
        raw = load_raw()
        images = raw.scaled
        self._examples = {
            name: [{"image": images[i], "label": np.int32(raw.labels[i])} for i in rows]
            for name, rows in raw.rows.items()
        }
        self.train_size = len(self._examples["train"])

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables."""
        return self.model.init(key, jnp.zeros((1, 8, 8, 1)))

    def init_carry(self, batch_size: int) -> PyTree:
        """Return (): images are independent."""
        return ()

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Return variables with the weights of a checkpoint, and the names of missing arrays."""
        return load_matching(variables, source, self.config.init_from_allow_missing)

    def train_batches(self) -> grain.DatasetIterator:
        """Return this process's share of shuffled batches: "image" (B, 8, 8, 1) and "label"."""
        examples, plain = self._examples["train"], lambda example, generator: example
        return shuffled_batches(examples, plain, self.config.data, seed=self.config.seed)

    def evaluations(self) -> Mapping[str, Evaluation]:
        """Return the one evaluation, "eval", on clean and on attacked images."""
        examples = self._examples["test"]
        return {
            "eval": Evaluation(functools.partial(eval_batches, examples, dict, self.config.data))
        }

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch unchanged."""
        return batch

    def problem(self, variables: Variables, images: Float[Array, "B 8 8 1"]) -> FixedPointProblem:
        """Return the equation of some images, with zeros as the initial state."""
        params = variables["params"]
        x: Any = self.model.apply({"params": params}, images, method="inject")
        # XLA takes seconds to fold norms of large constant zeros while it compiles.
        z0 = lax.optimization_barrier(jnp.zeros_like(x))
        return FixedPointProblem(self._cell, z0, (params, x))

    def _cell(self, z: State, args: tuple[PyTree, Array]) -> State:
        params, x = args
        return self.model.apply({"params": params}, z, x, method="cell")

    def _perturbed_cell(self, z: State, delta: Array, args: Arguments) -> State:
        params, images, _ = args
        x: Any = self.model.apply({"params": params}, images + delta, method="inject")
        return self._cell(z, (params, x))

    def _cost(self, z: State, delta: Array, args: Arguments) -> Float[Array, " B"]:
        params, _, labels = args
        logits: Any = self.model.apply({"params": params}, z, method="head")
        return -soft_margin(logits, labels)

    def attack(self, variables: Variables, batch: Batch, layer: Layer) -> Optimum:
        """Return the perturbation "x" of highest cross-entropy, from 0, with its equilibrium "z".

        The cost is −`soft_margin`. softplus(−cost) is the cross-entropy; its gradient with respect
        to the variables is the envelope term.

        Args:
          variables: the model's variables.
          batch: "image" (B, 8, 8, 1) and "label" (B,).
          layer: solves the augmented map.
        """
        images = batch["image"]
        _, zeros, (params, _) = self.problem(variables, images)
        return optimise(
            self._perturbed_cell,
            self._cost,
            zeros,
            jnp.zeros_like(images),
            (params, images, batch["label"]),
            deq=layer,
            steps=self.config.optimise.steps(),
            project=self.ball.project,
        )

    def margins(
        self, variables: Variables, batch: Batch, layer: Layer, margin: Margin
    ) -> Callable[[Array], tuple[Float[Array, " B"], Solution]]:
        """Return the function from δ to the margin at the equilibrium, and the `Solution`.

        Args:
          variables: the model's variables; no gradient reaches them.
          batch: "image" (B, 8, 8, 1) and "label" (B,).
          layer: finds the equilibrium of each δ, from the same initial state.
          margin: `soft_margin` or `hard_margin`.
        """
        variables = lax.stop_gradient(variables)

        def at(delta: Array) -> tuple[Float[Array, " B"], Solution]:
            solution = layer.again(*self.problem(variables, batch["image"] + delta))
            logits = self.decode(variables, solution.z, batch, train=False)["logits"]
            return margin(logits, batch["label"]), solution

        return at

    def margin_gradient(
        self, variables: Variables, batch: Batch, layer: Layer, margin: Margin
    ) -> MarginGradient:
        """Return the function from δ to the margin of `margins` and its implicit gradient.

        Args:
          variables: the model's variables; no gradient reaches them.
          batch: "image" (B, 8, 8, 1) and "label" (B,).
          layer: finds the equilibrium of each δ, from the same initial state.
          margin: `soft_margin` or `hard_margin`.
        """
        at = self.margins(variables, batch, layer, margin)

        def total(delta: Array) -> tuple[Float[Array, ""], Float[Array, " B"]]:
            values, _ = at(delta)
            return values.sum(), values

        def value_and_gradient(delta: Array) -> tuple[Float[Array, " B"], Array]:
            gradient, values = jax.grad(total, has_aux=True)(delta)
            return values, gradient

        return value_and_gradient

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
        """Return the outputs of `decode`, in training at the perturbation that the attack found."""
        method, images = self.config.attack.method if train else "none", batch["image"]
        if method == "joint":
            optimum = self.attack(variables, batch, layer)
            outputs = self.decode(variables, optimum.solution.z, batch, train=train)
            return Forward(
                {**outputs, "margin": -optimum.cost}, optimum.solution, cell=optimum.cell
            )
        if method == "pgd":
            options, start = self.config.attack, vary_together(jnp.zeros_like(images), images)
            gradient = self.margin_gradient(variables, batch, layer, soft_margin)
            size = options.pgd_step_size * options.epsilon
            images += attacks.pgd(gradient, self.ball, start, options.pgd_steps, size)
        solution = layer(*self.problem(variables, images))
        return Forward(self.decode(variables, solution.z, batch, train=train), solution)

    def decode(self, variables: Variables, z: PyTree, batch: Batch, *, train: bool) -> PyTree:
        """Return "logits" (B, 10) and their `soft_margin` "margin" (B,) of a state.

        Args:
          variables: the model's variables.
          z: a state of the cell, or a state of the augmented map.
          batch: "label" (B,).
          train: unused.
        """
        state = z.z if isinstance(z, Augmented) else z
        logits: Any = self.model.apply(variables, state, method="head")
        return {"logits": logits, "margin": soft_margin(logits, batch["label"])}

    def loss(
        self, variables: Variables, outputs: PyTree, batch: Batch, axis_name: str | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the mean cross-entropy; the metric "accuracy" is that of the attacked images."""
        return jax.nn.softplus(outputs["margin"]).mean(), {
            "accuracy": _right(outputs, batch).mean()
        }

    def predict(
        self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
    ) -> Prediction:
        """Return the outputs of `decode` on clean images, and "highest_margin" under attack.

        "highest_margin" (B,) is the highest `hard_margin` over all restarts and steps.
        """
        passed, options = self.forward(variables, batch, layer, train=False), self.config.evaluation
        gradient = self.margin_gradient(variables, batch, layer, hard_margin)
        keys = sample_keys(jax.random.key(self.config.seed), batch["image"], first_row(batch))

        def restart(number: Int[Array, ""]) -> Float[Array, " B"]:
            own: Any = fold_in_each(keys, number)
            start = self.ball.draw(own, batch["image"])
            size = options.first_step * self.ball.epsilon
            return attacks.highest_margin(gradient, self.ball, start, options.steps, size)

        highest = lax.map(restart, jnp.arange(options.restarts)).max(axis=0)
        statistics = solver_statistics(self.config, passed.solution)
        return Prediction({**passed.outputs, "highest_margin": highest}, statistics, carry)

    def sums(self, outputs: PyTree, batch: Batch) -> Mapping[str, PyTree]:
        """Return the numbers of images that are right, and of those that no attack changed."""
        right = _right(outputs, batch)
        scores = {"accuracy": right, "accuracy_robust": right & (outputs["highest_margin"] < 0)}
        return masked_sums(scores, batch["mask"])

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return accuracy, on clean images, and accuracy_robust, under attack."""
        names = ("accuracy", "accuracy_robust")
        return {name: float(sums[name] / sums["count"]) for name in names}

    def record(self, outputs: PyTree) -> Array:
        """Return the class of each clean image, (B,)."""
        return outputs["logits"].argmax(axis=-1)


def _right(outputs: PyTree, batch: Batch) -> Array:
    """Return whether the highest logit is the label's, (B,)."""
    return outputs["logits"].argmax(axis=-1) == batch["label"]


def create_experiment(config: Config) -> AdversarialTraining:
    """Return the experiment of a config."""
    return AdversarialTraining(config)
