"""What is measured of a trained model: accuracy, cost, and how good its gradient is."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from mdeq_jax.comparison.sizes import count_parameters
from mdeq_jax.implicit import Exact
from mdeq_jax.solvers import Broyden, Picard, solve
from mdeq_jax.stability import spectral_radius
from mdeq_jax.training.objective import Draw, make_objective
from mdeq_jax.vision import data
from mdeq_jax.vision.config import Config, DataConfig
from mdeq_jax.vision.load import Trained
from mdeq_jax.vision.losses import cross_entropy
from mdeq_jax.vision.model import MDEQ, ModelInfo, create_model

Batch = dict[str, Array]

# What the other gradients are held against: the adjoint equation, solved as well as float32 allows.
# Of a large model's batch, a history of all steps would take gigabytes.
_REFERENCE = Exact(Broyden(max_steps=100, tol=1e-6, memory=30))
_REPEATS = 5
# Of dropout, so that two gradients are of one function, and of the first vector of a power method.
_KEY = jax.random.PRNGKey(0)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one training batch costs, compiled; in "latency", one evaluation batch.

    Attributes:
      forward_s: seconds of the loss, or of the logits.
      backward_s: seconds of loss and gradient, less those of the loss.
      memory_bytes: temporary memory of loss and gradient; None where the backend does not tell.
    """

    forward_s: float
    backward_s: float | None = None
    memory_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One row of the report. What does not apply is None.

    Attributes:
      accuracy: on the test set.
      loss: cross-entropy there.
      forward_steps: mean over the test set of the solver's steps; of an unrolled or explicit model,
        its depth; of a neural ODE, its evaluations of the vector field.
      cost: of one batch.
      backward_steps: mean over a training batch of the adjoint solver's steps.
      parameters: number of trainable parameters.
      radius_mean: mean over an evaluation batch of the Jacobian's spectral radius at the
        equilibrium.
      radius_max: likewise the largest.
      cosine: of the gradient that training takes and the exact one at the same state.
      cosine_cell: likewise of the cell's parameters alone; those of the head have the exact
        gradient anyway.
      reference_residual: the largest residual, over the batch, of the adjoint solve that the exact
        gradient comes from.
      name: where a setting has several rows, the row's.
    """

    accuracy: float
    loss: float
    forward_steps: float
    cost: Cost | None = None
    backward_steps: float | None = None
    parameters: int | None = None
    radius_mean: float | None = None
    radius_max: float | None = None
    cosine: float | None = None
    cosine_cell: float | None = None
    reference_residual: float | None = None
    name: str = ""


def training_batch(config: Config) -> Batch:
    """Return the first batch that training sees."""
    normalise = data.find_dataset(config.data).normalise
    batch = jax.tree.map(jnp.asarray, next(data.train_iterator(config.data, seed=config.seed)))
    return {**batch, "image": normalise(batch["image"])}


def evaluation_images(config: Config) -> Float[Array, "B H W 3"]:
    """Return the first batch of test images."""
    images = jnp.asarray(next(iter(data.eval_batches(config.data)))["image"])
    return data.find_dataset(config.data).normalise(images)


def evaluate(
    predict: Callable[[Array], tuple[Float[Array, "B num_classes"], Float[Array, " B"]]],
    config: DataConfig,
) -> Measurement:
    """Return accuracy, loss and steps over the test set.

    Args:
      predict: from images (B, H, W, 3) to logits and the steps that they took; compiled.
      config: the data set.
    """
    normalise, columns = data.find_dataset(config).normalise, []
    for batch in data.eval_batches(config):
        labels = jnp.asarray(batch["label"])
        logits, steps = predict(normalise(jnp.asarray(batch["image"])))
        values = jnp.stack([logits.argmax(-1) == labels, cross_entropy(logits, labels), steps])
        columns.append(np.asarray(values)[:, batch["mask"]])
    accuracy, loss, steps = np.concatenate(columns, axis=1).mean(axis=1)
    return Measurement(float(accuracy), float(loss), float(steps))


def median_seconds(function: Callable[[], Any]) -> float:
    """Return the median time of a function, after one call that does not count."""
    seconds = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def cost_of(
    objective: Callable[..., tuple[Float[Array, ""], Any]], params: PyTree, *rest: PyTree
) -> tuple[Cost, tuple[PyTree, Any]]:
    """Return the cost of an objective, and its gradient with what it reports beside its value.

    Args:
      objective: (params, *rest) -> (loss, anything).
      params: what it is differentiated by.
      rest: its other arguments.
    """
    forward = jax.jit(objective).lower(params, *rest).compile()
    both = jax.jit(jax.grad(objective, has_aux=True)).lower(params, *rest).compile()
    forward_s = median_seconds(lambda: forward(params, *rest))
    both_s = median_seconds(lambda: both(params, *rest))
    memory: Any = both.memory_analysis()
    size = None if memory is None else memory.temp_size_in_bytes
    return Cost(forward_s, max(both_s - forward_s, 0.0), size), both(params, *rest)


def measure(trained: Trained, metrics: dict[str, Any]) -> Measurement:
    """Measure a trained model of this package.

    Args:
      trained: variables, config and step.
      metrics: the final evaluation, as `train` returns it.
    """
    config = trained.config
    model = create_model(config.model, dtype=config.compute_dtype)
    unrolled = config.train.unrolled_at(trained.step)
    batch = training_batch(config)
    inputs = (trained.variables["params"], jnp.zeros((len(batch["label"]), 2)))
    rest = (trained.variables["batch_stats"], batch)
    cost, found = cost_of(_training_loss(model, config, unrolled), inputs, *rest)
    (gradient, adjoint), info = found
    measurement = Measurement(
        accuracy=metrics["eval/accuracy"],
        loss=metrics["eval/loss"],
        forward_steps=metrics["eval/solver_steps"],
        cost=cost,
        parameters=count_parameters(model, config.data.image_size),
    )
    if unrolled is not None:
        return measurement
    radius = _spectral_radius(model, config, trained.variables)
    exact, reference = _exact_gradient(model, inputs, info.z, *rest)
    return dataclasses.replace(
        measurement,
        backward_steps=float(adjoint[:, 0].mean()),
        radius_mean=float(radius.mean()),
        radius_max=float(radius.max()),
        cosine=float(cosine(gradient, exact)),
        cosine_cell=float(cosine(gradient["cell"], exact["cell"])),
        reference_residual=float(reference[:, 1].max()),
    )


def _training_loss(
    model: MDEQ, config: Config, unrolled: int | None
) -> Callable[..., tuple[Float[Array, ""], ModelInfo]]:
    """What a training step minimises, without Jacobian regularisation, which only some steps add.

    Args:
      model: the model.
      config: of its run.
      unrolled: as of `make_objective`.
    """
    objective = make_objective(model, config, unrolled=unrolled)
    draw = Draw(_KEY, step_limit=jnp.asarray(config.solver.forward.max_steps))

    def loss(inputs: PyTree, batch_stats: PyTree, batch: Batch) -> tuple[Array, ModelInfo]:
        params, probe = inputs
        value, outcome = objective(params, probe, batch_stats, batch, draw)
        return value, outcome.info

    return loss


def _exact_gradient(
    model: MDEQ, inputs: PyTree, z: PyTree, batch_stats: PyTree, batch: Batch
) -> PyTree:
    """The gradient of the same loss at a given state, from which no step is taken."""

    @jax.jit
    @jax.grad
    def gradient(inputs: PyTree, z: PyTree, batch_stats: PyTree, batch: Batch) -> Array:
        params, probe = inputs
        output: Any = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            z0=z,
            solver=Picard(max_steps=1),
            step_limit=0,
            adjoint=_REFERENCE,
            adjoint_probe=probe,
            train=True,
            rngs={"dropout": _KEY},
            mutable=["batch_stats"],
        )
        (logits, _), _ = output
        return cross_entropy(logits, batch["label"]).mean()

    return gradient(inputs, z, batch_stats, batch)


def _spectral_radius(model: MDEQ, config: Config, variables: PyTree) -> Float[Array, " B"]:
    """At the equilibria of an evaluation batch, without dropout."""
    solver = config.solver.forward.build()

    @jax.jit
    def radius(variables: PyTree, images: Array) -> Array:
        problem: Any = model.apply(variables, images, method="problem")
        f, z0, args = problem
        return spectral_radius(f, solve(f, z0, args, solver).z, args, _KEY)

    return radius(variables, evaluation_images(config))


@jax.jit
def cosine(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Return ⟨a, b⟩ / (‖a‖ ‖b‖) over all leaves of two trees of one structure."""
    return jnp.divide(optax.tree.vdot(a, b), optax.tree.norm(a) * optax.tree.norm(b))
