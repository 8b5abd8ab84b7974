"""The gradient of a training step on one device, by its share of the batch or in microbatches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from mdeq_jax.solvers.norms import vary_together
from mdeq_jax.stability import gradient_error
from mdeq_jax.training.objective import Draw, make_objective
from mdeq_jax.vision.config import Config
from mdeq_jax.vision.model import MDEQ
from mdeq_jax.vision.tasks import Batch, Metrics


class Gradient(NamedTuple):
    """What a device contributes to a training step.

    Attributes:
      grads: like the parameters.
      batch_stats: the new running statistics of BatchNorm.
      metrics: means over the images.
    """

    grads: PyTree
    batch_stats: PyTree
    metrics: Metrics


def make_gradient(
    model: MDEQ, config: Config, *, unrolled: int | None
) -> Callable[[PyTree, PyTree, Batch, Draw], Gradient]:
    """Return ``gradient(params, batch_stats, batch, draw)``, of what `make_objective` returns.

    The metrics are those of the objective, adjoint_steps and adjoint_residual. The exact gradient
    of a solved equilibrium adds adjoint_converged, the share of samples whose adjoint residual is
    at most config.solver.backward.tol. If both solvers stop each sample by itself, it also adds
    gradient_error, an estimate of the gradient's relative error. With config.train.accumulate_steps
    above 1 all are those of `accumulated`.

    Args: as of `make_objective`.
    """
    objective = make_objective(model, config, unrolled=unrolled)
    by_sample = all(
        solver.stop_scope == "sample" for solver in (config.solver.forward, config.solver.backward)
    )
    solves_adjoint = config.adjoint.name == "exact" and unrolled is None

    def gradient(params: PyTree, batch_stats: PyTree, batch: Batch, draw: Draw) -> Gradient:
        probe = vary_together(jnp.zeros((len(batch["label"]), 2)), like=batch["image"])
        value = jax.grad(objective, argnums=(0, 1), has_aux=True)
        (grads, adjoint), outcome = value(params, probe, batch_stats, batch, draw)
        steps, residuals = adjoint.T
        metrics = {
            **outcome.metrics,
            "adjoint_steps": steps.mean(),
            "adjoint_residual": residuals.mean(),
        }
        if solves_adjoint:
            metrics["adjoint_converged"] = (residuals <= config.solver.backward.tol).mean()
        if solves_adjoint and by_sample:
            stop_mode = config.solver.forward.stop_mode
            errors = gradient_error(outcome.info.solver, adjoint, stop_mode)
            metrics["gradient_error"] = errors.mean()
        return Gradient(grads, outcome.batch_stats, metrics)

    parts = config.train.accumulate_steps
    return gradient if parts == 1 else accumulated(gradient, parts)


def accumulated(
    gradient: Callable[[PyTree, PyTree, Batch, Draw], Gradient], parts: int
) -> Callable[[PyTree, PyTree, Batch, Draw], Gradient]:
    """Return a gradient that takes a batch in microbatches, one after the other.

    Gradient and metrics are means over the microbatches, each with a key of its own; BatchNorm goes
    by the microbatch, and its running statistics from one to the next. Memory is that of one
    microbatch; on CPU, where the loop is unrolled, XLA may hold parts of two.

    Microbatch i has the rows i, i + parts, i + 2·parts, ...: split over any number of devices, a
    batch falls into the same microbatches.

    Args:
      gradient: of a microbatch.
      parts: number of microbatches, which divides the number of images.
    """

    def in_parts(params: PyTree, batch_stats: PyTree, batch: Batch, draw: Draw) -> Gradient:
        def add(carry: tuple[PyTree, PyTree], part: tuple[Batch, PyTree]):
            total, batch_stats = carry
            rows, key = part
            new = gradient(params, batch_stats, rows, draw._replace(key=key))
            return (jax.tree.map(jnp.add, total, new.grads), new.batch_stats), new.metrics

        microbatches = jax.tree.map(
            lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch
        )
        zeros = vary_together(jax.tree.map(jnp.zeros_like, params), like=params)
        keys = jax.random.split(draw.key, parts)
        # XLA on CPU takes 30 times as long for the gradient of a kernel inside a loop.
        unroll = jax.default_backend() == "cpu"
        (total, new_stats), metrics = lax.scan(
            add, (zeros, batch_stats), (microbatches, keys), unroll=unroll
        )
        grads = jax.tree.map(lambda x: x / parts, total)
        return Gradient(grads, new_stats, jax.tree.map(lambda x: x.mean(axis=0), metrics))

    return in_parts
