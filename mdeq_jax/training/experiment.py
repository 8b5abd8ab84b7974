"""What an application hands to the training loop.

    batch → inputs x → layer(f, z0, args) → solution → outputs → loss

The loop, the compiled steps, the evaluation and the checkpoints know an application by the
`Experiment` protocol only. Any object with these attributes and methods is an experiment: there is
no base class and nothing to register.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from mdeq_jax.implicit import Solution
from mdeq_jax.solvers import Solver, State
from mdeq_jax.solvers.initial import Kind
from mdeq_jax.solvers.norms import select
from mdeq_jax.training.mesh import AXIS, shard

if TYPE_CHECKING:  # the compiled steps do not need it
    import grain

# Arrays by name; their first axis is the batch.
Batch = Mapping[str, Shaped[Any, "B ..."]]
HostBatch = dict[str, np.ndarray]
Metrics = dict[str, Float[Array, ""]]
Variables = Mapping[str, PyTree]


# A `DEQ` whose traced options may be bound: (f, z0, args) -> the solution of z = f(z, args).
Solve = Callable[[Callable[[State, Any], State], State, PyTree], Solution]


@dataclasses.dataclass(frozen=True)
class Layer:
    """The equilibrium layer of one step: the way a model finds its equilibrium.

    Attributes:
      solve: solves from exactly the state that it is given, for a state that continues another
        solve: ``layer.solve(f, z0, args)``.
      start: maps the application's own initial state to the initial state that the run asks for,
        such as a random one of the same shapes.
      second: like `solve`, with other random numbers and without the step's adjoint probe; None is
        `solve`.
    """

    solve: Solve
    start: Callable[[State], State] = lambda z0: z0
    second: Solve | None = None

    def __call__(self, f: Callable[[State, Any], State], z0: State, args: PyTree) -> Solution:
        """Return the solution of z = f(z, args), with z0 as the application's own initial state."""
        return self.solve(f, self.start(z0), args)

    def again(self, f: Callable[[State, Any], State], z0: State, args: PyTree) -> Solution:
        """Return the solution of one more solve of the same step, from exactly z0."""
        return (self.second or self.solve)(f, z0, args)


class Forward(NamedTuple):
    """What a forward pass returns.

    Attributes:
      outputs: what the loss and the metrics are computed from.
      solution: what the layer returned; None for a model without an equilibrium.
      collections: the Flax collections other than "params", with their new values.
      carry: the new carry, each leaf (B, ...); () if the experiment has none.
      batch: the rows that the loss and `decode` see; None is the batch that `forward` was given. An
        experiment whose carry holds problems that it still works on puts them here.
      cell: the map and the equilibrium whose Jacobian is regularised, such as `Optimum.cell`; None
        is `solution`.
    """

    outputs: PyTree
    solution: Solution | None = None
    collections: Mapping[str, PyTree] = {}
    carry: PyTree = ()
    batch: Batch | None = None
    cell: Solution | None = None


class Prediction(NamedTuple):
    """What an evaluation pass returns.

    Attributes:
      outputs: what `Experiment.sums` and `Experiment.record` are computed from.
      statistics: arrays (B,) by name, such as the ones that `solver_statistics` returns.
      carry: the new carry, each leaf (B, ...); () if the experiment has none.
    """

    outputs: PyTree
    statistics: Mapping[str, Float[Array, " B"]]
    carry: PyTree = ()


class Score(NamedTuple):
    """The metric by which the best checkpoint is chosen.

    Attributes:
      name: the metric's full name, such as "eval/accuracy".
      higher_is_better: whether a larger value is the better one.
    """

    name: str
    higher_is_better: bool = True

    def improves(self, value: float, best: float | None) -> bool:
        """Return whether a value is better than the best one so far, which is None at first.

        A value that is not a number is never better.
        """
        if best is None:
            return not math.isnan(value)
        return value > best if self.higher_is_better else value < best


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluation of a model.

    Attributes:
      batches: starts one ordered pass over this process's share of the data. Each batch has a
        boolean array "mask" (B,), which is False where a row is padding.
      solver: finds the equilibrium in this evaluation; None takes the solver of
        config.solver.forward.
      max_steps: replaces the solver's own max_steps, unless None.
      initial_state: where the solves start: "own" keeps the application's own initial state; the
        other kinds are those of `mdeq_jax.initial_state`. A row's draw depends on its number in its
        batch, and therefore on config.data.eval_batch_size.
    """

    batches: Callable[[], Iterator[HostBatch]]
    solver: Solver | None = None
    max_steps: int | None = None
    initial_state: Literal["own"] | Kind = "own"


class Experiment(Protocol):
    """An application, as the training loop sees it.

    Attributes:
      config: the config of the run.
      train_size: number of training samples in an epoch.
      sample: what one row of a batch is called in the progress line, such as "token".
      score: the metric by which the best checkpoint is chosen.
      progress: training metrics that the progress line shows, each with its format, such as
        {"accuracy": ".2%"}.
      record_name: name of the array that `record` returns in the file of `eval.py --output`.
    """

    config: Any  # a `RunConfig`, in the application's own class
    sample: str
    score: Score
    record_name: str

    # Read-only, so that a class may compute them or narrow their types.
    @property
    def train_size(self) -> int: ...  # noqa: D102
    @property
    def progress(self) -> Mapping[str, str]: ...  # noqa: D102

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random variables: "params" and any other Flax collections."""
        ...

    def init_carry(self, batch_size: int) -> PyTree:
        """Return the carry that a fresh sequence starts with, each leaf (batch_size, ...).

        A carry is what a row of a batch passes on to the same row of the next batch, such as a
        memory. Where a batch has a boolean array "reset" (B,), rows that are True start afresh. All
        rows of a fresh carry are equal. An experiment without a carry returns ().
        """
        ...

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Return variables with the weights of `source`, and the names of the arrays it lacks.

        Raises:
          ValueError: the source cannot be read, or does not fit.
        """
        ...

    def train_batches(self) -> "grain.DatasetIterator":
        """Return this process's share of endless training batches.

        ``get_state`` and ``set_state`` of the iterator save and restore its position exactly.
        """
        ...

    def evaluations(self) -> Mapping[str, Evaluation]:
        """Return the evaluations by name.

        The metrics of the evaluation NAME are called NAME/METRIC. Those of GROUP/LABEL, such as
        "eval/64", are called GROUP/METRIC_LABEL, such as "eval/accuracy_64".
        """
        ...

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch that the steps see; compiled, on the devices."""
        ...

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
        """Return the forward pass.

        Args:
          variables: the model's variables.
          batch: the batch, each array this device's rows.
          layer: finds the equilibrium; a model hands its problem to it and relays no option.
          train: whether this is a training pass, with dropout and batch statistics. Only then may
            it reduce over the mesh axis `AXIS`.
          key: the step's random key, the same on all devices; None in evaluation.
          carry: the carry that the pass over the previous batch returned.
        """
        ...

    def decode(self, variables: Variables, z: State, batch: Batch, *, train: bool) -> PyTree:
        """Return the outputs of a state z. It changes no collection.

        Fixed-point correction computes the losses of sampled states from these outputs. SHINE's
        secant updates need the gradient of the loss with respect to the state.
        """
        ...

    def loss(
        self, variables: Variables, outputs: PyTree, batch: Batch, axis_name: str | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return what training minimises, and the metrics that it reports beside the loss.

        Args:
          variables: the model's variables; a loss may have parameters of its own.
          outputs: what `forward` or `decode` returned.
          batch: the batch, each array this device's rows.
          axis_name: mesh axis that the batch is split over; the means of the values over the axis
            are the values of the whole batch. None if the batch is not split.
        """
        ...

    def predict(
        self, variables: Variables, batch: Batch, layer: Layer, carry: PyTree
    ) -> Prediction:
        """Return the evaluation pass of a batch. It must not use a collective operation."""
        ...

    def sums(self, outputs: PyTree, batch: Batch) -> Mapping[str, PyTree]:
        """Return sums over the rows where ``batch["mask"]`` is True; they add up over batches."""
        ...

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return the metrics of all batches from their sums and "count", the number of rows."""
        ...

    def record(self, outputs: PyTree) -> Array:
        """Return what `eval.py --output` writes of each row, (B, ...)."""
        ...


def make_put(experiment: Experiment, mesh: Mesh) -> Callable[[PyTree], Batch]:
    """Return a function that moves a host batch to the devices and prepares it there.

    Args:
      experiment: the experiment, for its `prepare`.
      mesh: the mesh, as `create_mesh` returns it.
    """
    prepare = jax.jit(experiment.prepare)
    return lambda batch: prepare(shard(batch, mesh))


def rows_of(batch: Batch) -> int:
    """Return the number of rows of a batch."""
    return len(jax.tree.leaves(batch)[0])


def first_row(batch: Batch) -> Int[Array, ""]:
    """Return the number of this device's first row in the batch of all devices."""
    return lax.axis_index(AXIS) * rows_of(batch)


def require_same_structure(name: str, new: PyTree, old: PyTree) -> None:
    """Raise ValueError unless `forward` returned a collection or a carry of the same structure.

    Args:
      name: "collections" or "carry", for the message.
      new: what `Experiment.forward` returned.
      old: what it was given.
    """
    found, expected = jax.tree.structure(new), jax.tree.structure(old)
    if found != expected:
        raise ValueError(
            f"Experiment.forward returned {name} of the structure {found}; it must be that of the "
            f"{name} it was given, {expected}. Return Forward({name}=...)."
        )


def reset_carry(experiment: Experiment, carry: PyTree, reset: Bool[Array, " B"] | None) -> PyTree:
    """Return the carry with fresh rows where `reset` is True; None resets nothing."""
    if reset is None:
        return carry
    fresh = lax.pcast(experiment.init_carry(len(reset)), AXIS, to="varying")
    return select(reset, fresh, carry)
