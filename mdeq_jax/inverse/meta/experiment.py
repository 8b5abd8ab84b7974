"""Meta-learning by joint inference and input optimisation, as an experiment.

    v* = argmin over v of  mean error on the support points + penalty · mean v²,
         where z = cell(z, inject(points), v)
    minimise over the weights: mean error on the query points, at the equilibrium with v*

One augmented solve adapts the task vector v and finds the equilibrium of the support points. Its
implicit gradient says how v* depends on the weights: the outer gradient is exact, to second order.

Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021.
"""

import functools
from collections.abc import Mapping
from typing import Any

import grain
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.implicit import Optimum, optimise
from mdeq_jax.inverse.meta.config import Config
from mdeq_jax.inverse.meta.data import TASKS, draw_example
from mdeq_jax.inverse.meta.model import TaskNetwork
from mdeq_jax.solvers import State
from mdeq_jax.training.evaluation import evaluation_layer, masked_sums, solver_statistics
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
from mdeq_jax.training.loaders import eval_batches, shuffled_batches
from mdeq_jax.training.weights import load_matching

__all__ = ["Config", "MetaLearning", "create_experiment"]

# What the augmented map does not change: parameters, injection, targets.
Arguments = tuple[PyTree, Float[Array, "B n width"], Float[Array, "B n outputs"]]


class MetaLearning:
    """An equilibrium network that adapts to tasks, as `Experiment` describes it.

    Attributes:
      config: the config of the run.
      task: the kind of task.
      model: the network.
    """

    sample = "task"
    record_name = "outputs"

    def __init__(self, config: Config):
        """Make the model; tasks are drawn when they are used."""
        self.config, self.task = config, TASKS[config.data.task]
        self.model = TaskNetwork(config.model.width, config.model.task_width, self.task.outputs)
        self.score = Score(f"eval/{self.task.metric}", self.task.higher_is_better)
        self.progress: Mapping[str, str] = {self.task.metric: ".3f"}
        self.train_size = config.data.train_tasks

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables."""
        return self.model.init(key, jnp.zeros((1, 1, self.task.inputs)))

    def init_carry(self, batch_size: int) -> PyTree:
        """Return (): tasks are independent."""
        return ()

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Return variables with the weights of a checkpoint, and the names of missing arrays."""
        return load_matching(variables, source, self.config.init_from_allow_missing)

    def train_batches(self) -> grain.DatasetIterator:
        """Return this process's share of batches of new tasks, as `draw_example` returns them."""
        data = self.config.data

        def draw(number: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
            return draw_example(self.task, generator, "train", data.shots, data.queries)

        return shuffled_batches(range(self.train_size), draw, data, seed=self.config.seed)

    def evaluations(self) -> Mapping[str, Evaluation]:
        """Return the one evaluation, "eval", on held-out tasks."""
        data = self.config.data

        def draw(number: int) -> dict[str, np.ndarray]:
            generator = np.random.default_rng((data.seed, number))
            return draw_example(self.task, generator, "test", data.shots, data.queries)

        return {
            "eval": Evaluation(functools.partial(eval_batches, range(data.eval_tasks), draw, data))
        }

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch unchanged."""
        return batch

    def _inject(self, variables: Variables, points: Array) -> tuple[State, Array]:
        """Return the initial state of some points, zeros, and their injection."""
        x: Any = self.model.apply(variables, points, method="inject")
        # XLA takes seconds to fold norms of large constant zeros while it compiles.
        return lax.optimization_barrier(jnp.zeros_like(x)), x

    def _cell(self, z: State, v: Array, args: Arguments) -> State:
        params, x, _ = args
        return self.model.apply({"params": params}, z, x, v, method="cell")

    def _cost(self, z: State, v: Array, args: Arguments) -> Float[Array, " B"]:
        params, _, targets = args
        outputs: Any = self.model.apply({"params": params}, z, v, method="head")
        penalty = self.config.loss.penalty * (v**2).mean(axis=-1)
        return self.task.error(outputs, targets).mean(axis=-1) + penalty

    def prior(self, rows: int) -> Float[Array, "rows task_width"]:
        """Return the task vectors of tasks that are not adapted yet, zeros."""
        return jnp.zeros((rows, self.config.model.task_width))

    def adapt(self, variables: Variables, batch: Batch, layer: Layer) -> Optimum:
        """Return the task vectors "x" (B, task_width) of lowest cost on the support points.

        Args:
          variables: the model's variables.
          batch: "support_x" (B, n, inputs) and "support_y" (B, n, outputs).
          layer: solves the augmented map, from the equilibrium's zeros and `prior`.
        """
        zeros, x = self._inject(variables, batch["support_x"])
        args = variables["params"], x, batch["support_y"]
        v, steps = self.prior(len(x)).astype(x.dtype), self.config.optimise.steps()
        return optimise(self._cell, self._cost, zeros, v, args, deq=layer, steps=steps)

    def query(
        self, variables: Variables, batch: Batch, v: Float[Array, "B task_width"], layer: Layer
    ) -> Float[Array, "B n outputs"]:
        """Return the outputs of the query points at their equilibrium with given task vectors.

        Args:
          variables: the model's variables.
          batch: "query_x" (B, n, inputs) and "query_y" (B, n, outputs).
          v: the task vectors.
          layer: solves for the equilibrium.
        """
        zeros, x = self._inject(variables, batch["query_x"])

        def cell(z: State, args: tuple[Array, Arguments]) -> State:
            return self._cell(z, *args)

        solution = layer.again(cell, zeros, (v, (variables["params"], x, batch["query_y"])))
        outputs: Any = self.model.apply(variables, solution.z, v, method="head")
        return outputs

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
        """Return the outputs of the query points, (B, n, outputs), after adaptation."""
        optimum = self.adapt(variables, batch, layer)
        v = optimum.x if self.config.loss.second_order else lax.stop_gradient(optimum.x)
        outputs = self.query(variables, batch, v, layer)
        return Forward(outputs, optimum.solution, cell=optimum.cell)

    def decode(self, variables: Variables, z: PyTree, batch: Batch, *, train: bool) -> PyTree:
        """Return the outputs of the query points with the task vectors of a state.

        Args:
          variables: the model's variables.
          z: a state of the augmented map.
          batch: "query_x" and "query_y".
          train: unused.
        """
        return self.query(variables, batch, z.x, Layer(evaluation_layer(self.config)))

    def loss(
        self, variables: Variables, outputs: PyTree, batch: Batch, axis_name: str | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the mean error of the query points, and the task's metric."""
        score = self.task.score(outputs, batch["query_y"]).mean()
        return self.task.error(outputs, batch["query_y"]).mean(), {self.task.metric: score}

    def predict(
        self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
    ) -> Prediction:
        """Return the query points' outputs "adapted" and, with v = 0, "prior"; (B, n, outputs)."""
        passed = self.forward(variables, batch, layer, train=False)
        v = self.prior(len(batch["query_x"]))
        outputs = {"adapted": passed.outputs, "prior": self.query(variables, batch, v, layer)}
        return Prediction(outputs, solver_statistics(self.config, passed.solution), carry)

    def sums(self, outputs: PyTree, batch: Batch) -> Mapping[str, PyTree]:
        """Return the sums of the task's score, a mean over query points, with and without v."""
        means = {
            name: self.task.score(output, batch["query_y"]).mean(axis=-1)
            for name, output in outputs.items()
        }
        return masked_sums(means, batch["mask"])

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return the metric after adaptation, and with "_prior" in its name before it."""
        metric, count = self.task.metric, sums["count"]
        return {
            metric: float(sums["adapted"] / count),
            f"{metric}_prior": float(sums["prior"] / count),
        }

    def record(self, outputs: PyTree) -> Array:
        """Return the outputs of the query points after adaptation, (B, n, outputs)."""
        return outputs["adapted"]


def create_experiment(config: Config) -> MetaLearning:
    """Return the experiment of a config."""
    return MetaLearning(config)
