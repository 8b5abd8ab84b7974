"""Jacobian regularisation in training: on which steps, how strongly, and what it adds to the loss.

Source: Bai, Koltun, Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization", ICML 2021,
and `train` in `lib/core/cls_function.py`, locuslab/deq.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mdeq_jax.implicit import Solution
from mdeq_jax.solvers import Solver
from mdeq_jax.solvers.norms import vary_together
from mdeq_jax.stability import jacobian_loss
from mdeq_jax.training.config import RunConfig


def forward_solver(config: RunConfig) -> Solver:
    """Return the forward solver of training steps, with room for one more step if steps jitter."""
    options, forward = config.jacobian, config.solver.forward
    room = int(options.probability > 0 and options.step_jitter > 0)
    return dataclasses.replace(forward, max_steps=forward.max_steps + room).build()


def draw_regularization(
    config: RunConfig,
    key: PRNGKeyArray,
    step: Int[Array, ""],
    *,
    limit: Int[Array, ""] | int,
    unrolled: bool,
    steps_per_epoch: int,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Return γ, which is 0 on steps without the term, and the forward solve's limit of steps.

    Args:
      config: the config of the run.
      key: this step's key, the same on all devices.
      step: number of steps taken so far.
      limit: limit of the forward solve on steps without the term.
      unrolled: whether the cell is unrolled at this step.
      steps_per_epoch: number of steps of an epoch.
    """
    options = config.jacobian
    choice, jitter = jax.random.split(key)
    strength = options.pretrain_weight if unrolled else solved_weight(config, step, steps_per_epoch)
    gamma = jnp.where(jax.random.uniform(choice) < options.probability, strength, 0.0)
    limit = jnp.asarray(limit)
    if options.step_jitter > 0:
        shift = jax.random.randint(jitter, (), -options.step_jitter, 2)
        limit = jnp.where(gamma > 0, limit + shift, limit)
    return gamma, limit


def solved_weight(
    config: RunConfig, step: Int[Array, ""], steps_per_epoch: int
) -> Float[Array, ""]:
    """Return γ(step) once the cell is solved: it grows by 0.1 at a time and ends at `stop_epoch`.

    Args:
      config: the config of the run.
      step: number of steps taken so far.
      steps_per_epoch: number of steps of an epoch.
    """
    options = config.jacobian
    weight = jnp.asarray(options.weight)
    if options.increment_steps is not None:
        solved_steps = step - config.train.pretrain_steps
        weight = weight + 0.1 * (solved_steps // options.increment_steps)
    if options.stop_epoch is not None:
        weight = jnp.where(step // steps_per_epoch < options.stop_epoch, weight, 0.0)
    return weight


def jacobian_term(
    gamma: Float[Array, ""], solution: Solution, key: PRNGKeyArray, first: Int[Array, ""] | int = 0
) -> Float[Array, ""]:
    """Return γ·`jacobian_loss` at an equilibrium, which costs nothing where γ is 0.

    Args:
      gamma: γ, at least 0.
      solution: the equilibrium, its map and the map's arguments.
      key: key of the probes, the same on all devices.
      first: number of the first row of this device in the batch.
    """
    f, z, args = solution.f, solution.z, solution.args
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(z))
    value = lax.cond(
        gamma > 0,
        lambda: jacobian_loss(f, z, args, key, first=first),
        lambda: vary_together(jnp.zeros((), dtype), like=z),
    )
    return gamma.astype(dtype) * value
