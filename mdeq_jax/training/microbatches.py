"""The gradient of a batch, taken in microbatches one after the other."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from mdeq_jax.implicit import Solution
from mdeq_jax.training.experiment import Batch, Metrics


class Draw(NamedTuple):
    """What a training step draws at random.

    Attributes:
      key: key of dropout and of probes, the same on all devices.
      gamma: weight of the Jacobian's term; None without regularisation.
      step_limit: limit of the forward solve's steps; None keeps the solver's own.
    """

    key: PRNGKeyArray
    gamma: Float[Array, ""] | None = None
    step_limit: Int[Array, ""] | None = None


class Outcome(NamedTuple):
    """What a forward pass returns beside the value that is minimised.

    Attributes:
      metrics: metrics of the device's rows; their means over the devices are the metrics of the
        batch.
      collections: the new values of the Flax collections other than "params".
      carry: the new carry.
      solution: what the layer returned; None for a model without an equilibrium.
    """

    metrics: Metrics
    collections: Mapping[str, PyTree]
    carry: PyTree
    solution: Solution | None


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


def accumulated(gradient: GradientFunction, parts: int) -> GradientFunction:
    """Return a gradient that takes a batch in microbatches, one after the other.

    Gradient and metrics are means over the microbatches, each of which has a key of its own. Each
    microbatch has its own batch statistics; running statistics pass from one microbatch to the
    next. Memory is needed for one microbatch at a time. On CPU, where the loop is unrolled, XLA may
    hold parts of two.

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
        zeros = jax.tree.map(jnp.zeros_like, params)
        keys = jax.random.split(draw.key, parts)
        inputs = (*jax.tree.map(split, (batch, carry)), keys)
        # XLA on CPU takes 30 times as long for the gradient of a kernel inside a loop.
        unroll = jax.default_backend() == "cpu"
        total, (metrics, carries) = lax.scan(add, (zeros, collections), inputs, unroll=unroll)
        grads = jax.tree.map(lambda x: x / parts, total[0])
        means = jax.tree.map(lambda x: x.mean(axis=0), metrics)
        return Gradient(grads, total[1], means, jax.tree.map(join, carries))

    return in_parts
