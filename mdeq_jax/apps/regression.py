"""A one-layer equilibrium model of one number fits a curve; its Jacobian is regularised.

    z* = W₂ᵀ relu(W₁ z* + U x + b),  ŷ = z*,  loss (ŷ − y)² + γ (∂f/∂z)²

The state is one number, so the Jacobian is the slope of f, and the fixed point is where f meets the
diagonal. The flatter f is there, the fewer steps find it.

    python train.py --config configs/regression.py --workdir runs/regression
    python -m mdeq_jax.apps.regression

The second command trains under several γ and prints one table. Source: Bai, Koltun, Kolter,
"Stabilizing Equilibrium Models by Jacobian Regularization", ICML 2021, section 4.1: width 50, about
200 parameters, 4,096 pairs to train on and 1,000 to validate.
"""

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.apps.regression_config import Config
from mdeq_jax.solvers import Picard
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import masked_sums, solver_statistics
from mdeq_jax.training.experiment import (
    Batch,
    Evaluation,
    Experiment,
    Forward,
    Layer,
    Metrics,
    Prediction,
    Score,
    Variables,
)
from mdeq_jax.training.loaders import eval_batches, shuffled_batches
from mdeq_jax.training.loop import train
from mdeq_jax.training.weights import load_matching

__all__ = ["COUNTING", "Config", "Regression", "cell", "create_experiment", "draw_pairs", "fit"]

# Evaluation counts steps of plain iteration, whose number depends only on the contraction of f.
COUNTING = Picard(max_steps=200, tol=1e-4)


def cell(z: Float[Array, "B 1"], args: tuple[PyTree, Float[Array, "B 1"]]) -> Float[Array, "B 1"]:
    """Return f(z, (params, x)) = W₂ᵀ relu(W₁ z + U x + b)."""
    params, x = args
    return jax.nn.relu(z @ params["w1"] + x @ params["u"] + params["b"]) @ params["w2"]


def init_params(key: PRNGKeyArray, width: int) -> dict[str, Array]:
    """Return random parameters: w1 and u (1, width), w2 (width, 1), b (width,)."""
    w1, w2, u, b = jax.random.split(key, 4)
    return {
        "w1": 0.3 * jax.random.normal(w1, (1, width)),
        "w2": width**-0.5 * jax.random.normal(w2, (width, 1)),
        "u": jax.random.normal(u, (1, width)),
        "b": jax.random.normal(b, (width,)),
    }


def draw_pairs(key: PRNGKeyArray, count: int) -> list[dict[str, np.ndarray]]:
    """Return pairs "x", uniform in (−2, 2), and "y" = 3x³/2 + x² − 5x + 2 sin x − 3 + N(0, 0.05).

    Args:
      key: the random key.
      count: number of pairs, each of two arrays (1,).
    """
    place, noise = jax.random.split(key)
    x = jax.random.uniform(place, (count, 1), minval=-2.0, maxval=2.0)
    y = 1.5 * x**3 + x**2 - 5 * x + 2 * jnp.sin(x) - 3
    y = y + 0.05**0.5 * jax.random.normal(noise, x.shape)
    return [{"x": x, "y": y} for x, y in zip(np.asarray(x), np.asarray(y), strict=True)]


class Regression:
    """The regression, as `mdeq_jax.training.experiment.Experiment` describes it."""

    sample = "pair"
    score = Score("eval/error", higher_is_better=False)
    progress: Mapping[str, str] = {}
    record_name = "y"

    def __init__(self, config: Config):
        """Draw the pairs of a config."""
        self.config, data = config, config.data
        train_key, eval_key = jax.random.split(jax.random.key(config.seed))
        self._train_pairs = draw_pairs(train_key, data.train_pairs)
        self._eval_pairs = draw_pairs(eval_key, data.eval_pairs)
        self.train_size = data.train_pairs

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables."""
        return {"params": init_params(key, self.config.model.width)}

    def init_carry(self, batch_size: int) -> PyTree:
        """Return (): pairs are independent."""
        return ()

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Return variables with the weights of a checkpoint, and the names of missing arrays."""
        return load_matching(variables, source, self.config.init_from_allow_missing)

    def train_batches(self) -> grain.DatasetIterator:
        """Return this process's share of shuffled batches."""
        return shuffled_batches(
            self._train_pairs,
            lambda pair, generator: pair,
            self.config.data,
            seed=self.config.seed,
        )

    def evaluations(self) -> Mapping[str, Evaluation]:
        """Return the one evaluation, "eval", which counts plain steps."""
        batches = functools.partial(eval_batches, self._eval_pairs, dict, self.config.data)
        return {"eval": Evaluation(batches, solver=COUNTING)}

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch unchanged."""
        return batch

    def forward(self, variables: Variables, batch: Batch, layer: Layer, **_: Any) -> Forward:
        """Return the fixed points, from z = 0."""
        solution = layer(cell, jnp.zeros_like(batch["x"]), (variables["params"], batch["x"]))
        return Forward(solution.z, solution)

    def decode(self, variables: Variables, z: PyTree, batch: Batch, *, train: bool) -> PyTree:
        """Return the state, which is the model's output."""
        return z

    def loss(
        self, variables: Variables, outputs: PyTree, batch: Batch, axis_name: str | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the mean squared error."""
        return ((outputs - batch["y"]) ** 2).mean(), {}

    def predict(
        self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
    ) -> Prediction:
        """Return the fixed points and the statistics of their solve; the radius is |∂f/∂z|."""
        forward = self.forward(variables, batch, layer)
        return Prediction(forward.outputs, solver_statistics(self.config, forward.solution))

    def sums(self, outputs: PyTree, batch: Batch) -> Mapping[str, PyTree]:
        """Return the sum of squared errors."""
        errors = (outputs - batch["y"])[:, 0] ** 2
        return masked_sums({"squared_error": errors}, batch["mask"])

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return the mean squared error."""
        return {"error": float(sums["squared_error"] / sums["count"])}

    def record(self, outputs: PyTree) -> Array:
        """Return the fixed points, (B, 1)."""
        return outputs


def create_experiment(config: Config) -> Experiment:
    """Return the experiment of a config."""
    return Regression(config)


def fit(config: Config, gamma: float, workdir: Path) -> dict[str, Any]:
    """Train with γ as the weight of the Jacobian's term on every step, and validate.

    Args:
      config: the config of the run, whose own weight is replaced.
      gamma: γ, at least 0.
      workdir: folder of the run.

    Returns:
      The metrics of the final evaluation, as `mdeq_jax.training.loop.train` names them.
    """
    changes = {"jacobian.probability": float(gamma != 0), "jacobian.weight": float(gamma)}
    return train(Regression(override(config, changes)), workdir).metrics


def main() -> None:
    """Print a table of several γ, with the figures of the validation pairs."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every save
    config = override(Config(), {"train.log_every": 1000, "train.eval_every": 1000})
    shown = ("error", "solver_steps", "converged", "spectral_radius")
    print("gamma  mean squared error  plain steps  converged  |slope|")
    with tempfile.TemporaryDirectory() as folder:
        for gamma in (0.0, 0.1, 0.5, 2.0, 8.0):
            metrics = fit(config, gamma, Path(folder) / f"gamma_{gamma}")
            error, steps, converged, slope = (metrics[f"eval/{name}"] for name in shown)
            print(f"{gamma:5.1f}  {error:18.4f}  {steps:11.1f}  {converged:9.1%}  {slope:7.3f}")


if __name__ == "__main__":
    main()
