"""DEQ-Flow as an experiment: where each pixel of an image is in the next one.

    two images → x (context and correlations) → z = cell(z, x) → flow

Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022, arXiv
2204.08442; locuslab/deq-flow.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import grain
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.flow.config import Config
from mdeq_jax.flow.data.sources import Source, evaluation_source, training_source
from mdeq_jax.flow.metrics import flow_errors, flow_loss, summarize_errors
from mdeq_jax.flow.model.create import create_model, init_variables, merge_weight_norm
from mdeq_jax.flow.model.flow_net import Injection
from mdeq_jax.flow.model.torch_files import import_with_report, infer_config
from mdeq_jax.implicit import FixedPointProblem
from mdeq_jax.solvers import State
from mdeq_jax.torch_files.fitting import Imported, Inferred
from mdeq_jax.training.evaluation import masked_sums, metric_name, solver_statistics
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
from mdeq_jax.training.losses import masked_mean
from mdeq_jax.training.mesh import AXIS
from mdeq_jax.training.weights import load_matching

__all__ = ["Config", "Flow", "create_experiment", "import_torch", "infer"]


class Flow:
    """DEQ-Flow on pairs of images, as `Experiment` describes it.

    Attributes:
      config: the config of the run.
      model: the network; in training it averages batch statistics over the mesh.
    """

    sample = "pair"
    progress: Mapping[str, str] = {"epe": ".3f"}
    record_name = "flow"

    def __init__(self, config: Config):
        """Make the model; the images are read or generated when they are used."""
        self.config = config
        self.model = create_model(config.model, AXIS, config.compute_dtype)
        sets = config.evaluation.sets
        self._names = {name: f"eval/{name}" if len(sets) > 1 else "eval" for name in sets}
        first = next(iter(self._names.values()))
        self.score = Score(metric_name(first, "epe"), higher_is_better=False)
        self._evaluation_source = functools.cache(functools.partial(evaluation_source, config.data))

    @functools.cached_property
    def training_source(self) -> Source:
        """The pairs to train on; raises ValueError if files are missing."""
        return training_source(self.config.data)

    @property
    def train_size(self) -> int:
        """Return the number of pairs in an epoch."""
        return len(self.training_source.records)

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables."""
        return init_variables(self.model, key)

    def init_carry(self, batch_size: int) -> PyTree:
        """Return (): every pair of images stands for itself."""
        return ()

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Return variables with the weights of a checkpoint or of a PyTorch file of DEQ-Flow."""
        read = functools.partial(import_with_report, config=self.config.model)
        return load_matching(variables, source, self.config.init_from_allow_missing, read)

    def train_batches(self) -> grain.DatasetIterator:
        """Return this process's share of shuffled, augmented batches."""
        source, options = self.training_source, self.config.data
        return shuffled_batches(source.records, source.example, options, seed=self.config.seed)

    def evaluations(self) -> Mapping[str, Evaluation]:
        """Return "eval", or one evaluation "eval/SET" for each of several sets.

        Raises:
          ValueError: files of a set are missing.
        """
        for name in self._names:
            self._evaluation_source(name)  # what is missing is reported before the first step
        steps = self.config.evaluation.steps
        return {
            evaluation: Evaluation(functools.partial(self.eval_batches, name), max_steps=steps)
            for name, evaluation in self._names.items()
        }

    def eval_batches(self, name: str) -> grain.DatasetIterator:
        """Return one pass over this process's share of an evaluation set."""
        source = self._evaluation_source(name)
        return eval_batches(source.records, source.example, self.config.data)

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch unchanged: the model normalises images."""
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
        """Return the outputs of `decode`; with `train` the statistics of BatchNorm are updated."""
        collections = {name: tree for name, tree in variables.items() if name != "params"}
        inject: Any = functools.partial(
            self.model.apply, variables, batch["first"], batch["second"], method="inject"
        )
        if train and not self.config.freeze_norm:
            x, collections = inject(train=True, mutable=list(collections))
        else:
            x = inject()
        solution = layer(*self.problem(variables, x))
        outputs = self.decode(variables, solution.z, batch, train=train)
        return Forward(outputs, solution, collections)

    def problem(self, variables: Variables, x: Injection) -> FixedPointProblem:
        """Return the fixed-point problem of what `FlowNet.inject` returned."""
        update = merge_weight_norm(variables)["params"]["update"]
        z0: Any = self.model.apply({}, x, method="start")
        return FixedPointProblem(self._cell, z0, (update, x))

    def _cell(self, z: State, args: tuple[PyTree, Injection]) -> State:
        update, x = args
        return self.model.apply({"params": {"update": update}}, z, x, method="cell")

    def decode(self, variables: Variables, z: PyTree, batch: Batch, *, train: bool) -> PyTree:
        """Return the flow of a state, (B, H, W, 2) in pixels of the images."""
        return self.model.apply(variables, z, method="upsample")

    def loss(
        self, variables: Variables, outputs: PyTree, batch: Batch, axis_name: str | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return `flow_loss`, and epe, the mean over images of their mean end-point error."""
        flow, valid = batch["flow"], batch["valid"]
        errors = flow_errors(outputs, flow, valid)
        epe = masked_mean(errors["image_error"], errors["images"], axis_name)
        return flow_loss(outputs, flow, valid, self.config.loss.max_flow), {"epe": epe}

    def predict(
        self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
    ) -> Prediction:
        """Return the flow and the solver's statistics."""
        found = self.forward(variables, batch, layer, train=False)
        return Prediction(found.outputs, solver_statistics(self.config, found.solution), carry)

    def sums(self, outputs: PyTree, batch: Batch) -> Mapping[str, PyTree]:
        """Return the sums of `flow_errors`, and "zero_error", the sum of the errors of flow 0."""
        flow, valid = batch["flow"], batch["valid"]
        zero = flow_errors(jnp.zeros_like(flow), flow, valid)["error"]
        return masked_sums(flow_errors(outputs, flow, valid) | {"zero_error": zero}, batch["mask"])

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return the metrics of `summarize_errors`, and epe_zero, the mean error of flow 0."""
        of_zero = summarize_errors({**sums, "error": sums["zero_error"]})
        return summarize_errors(sums) | {"epe_zero": of_zero["epe"]}

    def record(self, outputs: PyTree) -> Array:
        """Return the flow, (B, H, W, 2)."""
        return outputs


def create_experiment(config: Config) -> Flow:
    """Return the experiment of a config."""
    return Flow(config)


def import_torch(
    config: Config,
    path: str | os.PathLike[str],
    *,
    allow_missing: Iterable[str],
    drop: Iterable[str],
) -> Imported:
    """Return the variables of `config.model` from a file of DEQ-Flow, and where they are from.

    Args:
      config: config whose section ``model`` is the architecture.
      path: a file that `torch.save` wrote, of DEQ-Flow's versions 1.0 or 2.0 or of TorchDEQ.
      allow_missing: PyTorch names, with ``*`` for any part, of arrays that get initial values if
        they are missing in the file.
      drop: PyTorch names, with ``*`` for any part, of arrays that are not read from the file.

    Raises:
      ValueError: the file cannot be read, or does not fit the network.
    """
    return import_with_report(path, config.model, allow_missing=allow_missing, drop=drop)


def infer(path: str | os.PathLike[str], given: Mapping[str, Any]) -> Inferred:
    """Return the architecture in a file of DEQ-Flow, and its fields that no array determines.

    Args:
      path: a file that `torch.save` wrote, of DEQ-Flow's versions 1.0 or 2.0 or of TorchDEQ.
      given: fields of the architecture that replace the inferred ones.

    Raises:
      ValueError: the file cannot be read, or does not hold a model of DEQ-Flow.
    """
    return Inferred(dataclasses.replace(infer_config(path), **given), ("detach_flow",))
