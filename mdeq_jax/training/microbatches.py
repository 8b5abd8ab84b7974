"""The gradient of a training step on one device, of all its rows or in microbatches."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from mdeq_jax.stability import gradient_error
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.experiment import Batch, Experiment, Metrics
from mdeq_jax.training.mesh import AXIS
from mdeq_jax.training.objective import Draw, make_objective, rows_of


class Gradient(NamedTuple):
    """What a device contributes to a training step.

    Attributes:
      grads: the gradient, like the parameters.
      collections: the new values of the Flax collections other than "params".
      metrics: means over the device's rows.
      carry: the new carry of the device's rows.
    """

    grads: PyTree
    collections: Mapping[str, PyTree]
    metrics: Metrics
    carry: PyTree


# (params, collections, batch, carry, draw) -> Gradient
GradientFunction = Callable[[PyTree, Mapping[str, PyTree], Batch, PyTree, Draw], Gradient]


def make_gradient(experiment: Experiment, *, unrolled: int | None) -> GradientFunction:
    """Return ``gradient(params, collections, batch, carry, draw)``, the gradient of the objective.

    The metrics are those of `make_objective`, and for a model with an equilibrium adjoint_steps and
    adjoint_residual. The exact gradient of a solved equilibrium adds adjoint_converged, the share
    of samples whose adjoint residual is at most config.solver.backward.tol. If both solvers stop
    each sample by itself, it also adds gradient_error, an estimate of the gradient's relative
    error. With config.train.accumulate_steps above 1, gradient and metrics are means over
    microbatches (`accumulated`).

    Args:
      experiment: the experiment.
      unrolled: number of applications of the cell in place of the solve; None solves.
    """
    config: RunConfig = experiment.config
    objective = make_objective(experiment, unrolled=unrolled)
    solvers = config.solver.forward, config.solver.backward
    by_sample = all(solver.stop_scope == "sample" for solver in solvers)
    solves_adjoint = config.adjoint.name == "exact" and unrolled is None

    def gradient(
        params: PyTree, collections: Mapping[str, PyTree], batch: Batch, carry: PyTree, draw: Draw
    ) -> Gradient:
        probe = lax.pcast(jnp.zeros((rows_of(batch), 2)), AXIS, to="varying")
        value = jax.grad(objective, argnums=(0, 1), has_aux=True)
        (grads, adjoint), outcome = value(params, probe, collections, batch, carry, draw)
        metrics = outcome.metrics
        if outcome.solution is not None:
            steps, residuals = adjoint.T
            metrics["adjoint_steps"] = steps.mean()
            metrics["adjoint_residual"] = residuals.mean()
            if solves_adjoint:
                metrics["adjoint_converged"] = (residuals <= config.solver.backward.tol).mean()
            if solves_adjoint and by_sample:
                stop_mode = config.solver.forward.stop_mode
                errors = gradient_error(outcome.solution.result, adjoint, stop_mode)
                metrics["gradient_error"] = errors.mean()
        return Gradient(grads, outcome.collections, metrics, outcome.carry)

    parts = config.train.accumulate_steps
    return gradient if parts == 1 else accumulated(gradient, parts)


def accumulated(gradient: GradientFunction, parts: int) -> GradientFunction:
    """Return a gradient that takes a batch in microbatches, one after the other.

    Gradient and metrics are means over the microbatches, each of which has a key of its own. Batch
    statistics are those of a microbatch; running statistics pass from one to the next. Memory is
    that of one microbatch; on CPU, where the loop is unrolled, XLA may hold parts of two.

    Microbatch i has the rows i, i + parts, i + 2·parts, ...: split over any number of devices, a
    batch falls into the same microbatches.

    Args:
      gradient: the gradient of a microbatch.
      parts: number of microbatches; it divides the number of rows.
    """

    def in_parts(
        params: PyTree, collections: Mapping[str, PyTree], batch: Batch, carry: PyTree, draw: Draw
    ) -> Gradient:
        def add(total: tuple[PyTree, PyTree], part: tuple[Batch, PyTree, PyTree]):
            grads, collections = total
            rows, row_carry, key = part
            new = gradient(params, collections, rows, row_carry, draw._replace(key=key))
            grads = jax.tree.map(jnp.add, grads, new.grads)
            return (grads, new.collections), (new.metrics, new.carry)

        split = lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)  # noqa: E731
        join = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])  # noqa: E731
        zeros = lax.pcast(jax.tree.map(jnp.zeros_like, params), AXIS, to="varying")
        keys = jax.random.split(draw.key, parts)
        inputs = (*jax.tree.map(split, (batch, carry)), keys)
        # XLA on CPU takes 30 times as long for the gradient of a kernel inside a loop.
        unroll = jax.default_backend() == "cpu"
        total, (metrics, carries) = lax.scan(add, (zeros, collections), inputs, unroll=unroll)
        grads = jax.tree.map(lambda x: x / parts, total[0])
        means = jax.tree.map(lambda x: x.mean(axis=0), metrics)
        return Gradient(grads, total[1], means, jax.tree.map(join, carries))

    return in_parts
