"""Equilibrium reasoning as an experiment: one class or digit for each position of a grid.

    problem → injection x → z = cell(z, x) → logits of each position

The same weights solve problems of any size; a larger or harder problem needs more solver steps.
"""

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.implicit import FixedPointProblem
from mdeq_jax.reasoning.config import Config
from mdeq_jax.reasoning.data.problems import Problems
from mdeq_jax.reasoning.model.create import create_model
from mdeq_jax.reasoning.model.torch_files import import_with_report
from mdeq_jax.reasoning.scores import mean_over_positions, problem_scores
from mdeq_jax.reasoning.tasks import TASKS, open_problems
from mdeq_jax.solvers import State, initial_state
from mdeq_jax.solvers.norms import select
from mdeq_jax.stability import cosine, rolled
from mdeq_jax.torch_files.fitting import Imported
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

__all__ = ["Config", "Reasoning", "create_experiment"]


class Reasoning:
    """A recurrent network or a transformer on grids, as `Experiment` describes it.

    Attributes:
      config: the config of the run.
      shape: grid, channels and classes of the training problems.
      model: the network.
    """

    sample = "problem"
    progress: Mapping[str, str] = {"exact": ".1%"}
    record_name = "answers"

    def __init__(self, config: Config):
        """Make the model; the problems are read or generated when they are used."""
        self.config, data = config, config.data
        self.score = Score(f"eval/exact_{max(config.evaluation.sizes)}")
        self.shape = TASKS[data.task].shape(data, data.size)
        self.model = create_model(
            config.model,
            channels=self.shape.channels,
            classes=self.shape.classes,
            size=self.shape.grid,
            dtype=config.compute_dtype,
        )
        self._test_problems = functools.cache(functools.partial(open_problems, data, "test"))

    @functools.cached_property
    def train_problems(self) -> Problems:
        """The problems to train on; raises ValueError if they cannot be read."""
        return open_problems(self.config.data, "train", self.config.data.size)

    @property
    def train_size(self) -> int:
        """Return the number of problems to train on."""
        return self.config.data.train_problems

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables."""
        return self.model.init(key, self._no_problems(1).inputs)

    def _no_problems(self, count: int) -> Problems:
        """Return zeros in the shapes and dtypes of training problems."""
        positions = (count, *self.shape.grid)
        return Problems(
            np.zeros((*positions, self.shape.channels), np.float32),
            np.zeros(positions, np.int32),
            np.zeros(positions, bool),
        )

    def init_carry(self, batch_size: int) -> PyTree:
        """Return rows that are all finished, so that each takes a new problem.

        It is () where every step has new problems.
        """
        if self.config.loss.segments == 1:
            return ()
        rows = jax.tree.map(jnp.asarray, self._no_problems(batch_size))
        variables = jax.eval_shape(self.init, jax.random.key(0))
        z0 = jax.eval_shape(lambda v: self.problem(v, rows.inputs).z0, variables)
        return {
            "batch": rows._asdict(),
            "z": jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), z0),
            "segments": jnp.zeros(batch_size, jnp.int32),
            "finished": jnp.ones(batch_size, bool),
        }

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Return variables with the weights of a checkpoint or of a deep-thinking PyTorch file."""
        read = functools.partial(import_with_report, model=self.model)
        return load_matching(variables, source, self.config.init_from_allow_missing, read)

    def train_batches(self) -> grain.DatasetIterator:
        """Return this process's share of shuffled batches."""
        problems = self.train_problems
        return shuffled_batches(
            range(self.train_size),
            lambda number, generator: problems.example(number),
            self.config.data,
            seed=self.config.seed,
        )

    def evaluations(self) -> Mapping[str, Evaluation]:
        """Return one evaluation for each size, called "eval/SIZE".

        Raises:
          ValueError: the problems of a size cannot be read, or the batch does not fit the groups of
            the alignment score.
        """
        options, rows = self.config.evaluation, self.config.data.eval_batch_size
        if rows // jax.device_count() % options.alignment_group:
            raise ValueError(
                f"config.evaluation.alignment_group is {options.alignment_group}, but each of "
                f"{jax.device_count()} devices has {rows // jax.device_count()} rows of a batch; "
                "let config.data.eval_batch_size be a multiple of devices times group."
            )
        for size in options.sizes:
            self._test_problems(size)  # what is missing is reported before the first step
        return {
            f"eval/{size}": Evaluation(
                functools.partial(self.test_batches, size),
                max_steps=steps,
                initial_state=options.initial_state,
            )
            for size, steps in zip(options.sizes, options.steps, strict=True)
        }

    def test_batches(self, size: int) -> grain.DatasetIterator:
        """Return one pass over this process's share of the test problems of a size."""
        problems = self._test_problems(size)
        return eval_batches(range(len(problems.inputs)), problems.example, self.config.data)

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch unchanged."""
        return batch

    def problem(self, variables: Variables, inputs: Float[Array, "B H W C"]) -> FixedPointProblem:
        """Return the equation of some problems, with the model's own initial state."""
        x = self.model.apply(variables, inputs, method="inject")
        z0: Any = self.model.apply(variables, inputs, x, method="start")
        # XLA takes seconds to fold norms of large constant zeros while it compiles.
        z0 = jax.lax.optimization_barrier(z0)
        return FixedPointProblem(self._cell, z0, (variables["params"], x))

    def _cell(self, z: State, args: tuple[PyTree, PyTree]) -> State:
        params, x = args
        return self.model.apply({"params": params}, z, x, method="cell")

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

        With config.loss.alignment_weight there is "start_cosine" (B,), the cosine between the
        equilibrium and the one that is reached from a random state.

        With several segments a row whose problem is not finished keeps it, and its state.
        """
        segmented = train and self.config.loss.segments > 1
        if segmented:
            batch = select(carry["finished"], dict(batch), carry["batch"])
        f, own, args = self.problem(variables, batch["inputs"])
        z0 = layer.start(own)
        if segmented:
            z0 = select(carry["finished"], z0, carry["z"])
        solution = layer.solve(f, z0, args)
        outputs = self.decode(variables, solution.z, batch, train=train)
        if key is not None and self.config.loss.alignment_weight != 0:
            other = initial_state(key, own, "normal", first_row(batch))
            outputs["start_cosine"] = cosine(solution.z, layer.again(f, other, args).z)
        if segmented:
            carry = self._next_carry(carry, batch, solution.z, outputs)
        return Forward(outputs, solution, carry=carry, batch=batch)

    def _next_carry(self, carry: PyTree, batch: Batch, z: State, outputs: PyTree) -> PyTree:
        """Return the carry after one more segment of each row."""
        segments = jnp.where(carry["finished"], 0, carry["segments"]) + 1
        finished = segments >= self.config.loss.segments
        if "halt" in outputs:
            finished |= outputs["halt"] > 0
        carry = {"batch": dict(batch), "z": z, "segments": segments, "finished": finished}
        return jax.lax.stop_gradient(carry)

    def decode(self, variables: Variables, z: PyTree, batch: Batch, *, train: bool) -> PyTree:
        """Return "logits" (B, H, W, classes), and "halt" (B,) if the model has a halting head."""
        outputs = {"logits": self.model.apply(variables, z, method="head")}
        if self.config.model.halting:
            outputs["halt"] = self.model.apply(variables, z, method="halt")
        return outputs

    def loss(
        self, variables: Variables, outputs: PyTree, batch: Batch, axis_name: str | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the cross-entropy of counted positions, averaged over problems, and added terms.

        The metrics are exact, the share of problems without a wrong position, and accuracy, the
        share of right positions.
        """
        logits, counted = outputs["logits"], batch["counted"]
        entropies = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        loss = mean_over_positions(entropies, counted).mean()
        scores = problem_scores(outputs, batch)
        if "halt" in outputs:
            entropy = optax.sigmoid_binary_cross_entropy(outputs["halt"], scores["exact"])
            loss += self.config.loss.halting_weight * entropy.mean()
        if "start_cosine" in outputs:
            scores["start_cosine"] = outputs["start_cosine"]
            loss += self.config.loss.alignment_weight * scores["start_cosine"].mean()
        return loss, {name: score.mean() for name, score in scores.items()}

    def predict(
        self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
    ) -> Prediction:
        """Return the outputs of `decode`, the solver's statistics, and "alignment".

        "alignment" is the asymptotic alignment score of each problem under the equilibria of the
        other config.evaluation.alignment_group − 1 problems of its group.
        """
        solution = layer(*self.problem(variables, batch["inputs"]))
        outputs = self.decode(variables, solution.z, batch, train=False)
        statistics = solver_statistics(self.config, solution)
        group = self.config.evaluation.alignment_group
        if group > 1:
            starts = rolled(solution.z, range(1, group), group)
            cosines = [
                cosine(solution.z, layer.again(solution.f, start, solution.args).z)
                for start in (jax.tree.map(lambda x, i=i: x[i], starts) for i in range(group - 1))
            ]
            statistics["alignment"] = jnp.stack(cosines).mean(axis=0)
        return Prediction(outputs, statistics, carry)

    def sums(self, outputs: PyTree, batch: Batch) -> Mapping[str, PyTree]:
        """Return the sums of `problem_scores`."""
        return masked_sums(problem_scores(outputs, batch), batch["mask"])

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return the means of `problem_scores` over all problems."""
        names = ("exact", "accuracy", "halting_accuracy")
        return {name: float(sums[name] / sums["count"]) for name in names if name in sums}

    def record(self, outputs: PyTree) -> Array:
        """Return the class of each position, (B, H, W)."""
        return outputs["logits"].argmax(axis=-1)


def create_experiment(config: Config) -> Reasoning:
    """Return the experiment of a config."""
    return Reasoning(config)


def import_torch(
    config: Config,
    path: str | os.PathLike[str],
    *,
    allow_missing: Iterable[str],
    drop: Iterable[str],
) -> Imported:
    """Return the variables of `config.model` from a file of deep-thinking, and where they are from.

    Args:
      config: config whose sections ``model`` and ``data`` determine the network.
      path: a file that `torch.save` wrote, with a state dict or a training checkpoint.
      allow_missing: PyTorch names, with ``*`` for any part, of arrays that get initial values if
        they are missing in the file.
      drop: PyTorch names, with ``*`` for any part, of arrays that are not read from the file.

    Raises:
      ValueError: the file cannot be read, or does not fit the network.
    """
    model = Reasoning(config).model
    return import_with_report(path, model, allow_missing=allow_missing, drop=drop)
