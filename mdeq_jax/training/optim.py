"""Optimizers, learning-rate schedules and the average of the parameters, from optax."""

import fnmatch
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from mdeq_jax.training.config import OptimConfig

# PyTorch's defaults for RMSprop: the decay of the mean square, and what is added to its root.
_RMS_DECAY, _RMS_EPSILON = 0.99, 1e-8
# PyTorch's defaults for OneCycleLR: peak / first rate, and first rate / last rate.
_CYCLE_RISE, _CYCLE_FALL = 25.0, 1e4


def learning_rate(optim: OptimConfig, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Return the learning rate as a function of the step t = 0, 1, ..., steps − 1.

    With η = `learning_rate`, each step follows its schedule:
      "constant": η.
      "cosine": η_min + (η − η_min)(1 + cos(π t / steps)) / 2 with η_min = `learning_rate_floor`
        (`CosineAnnealingLR` in `tools/cls_train.py`, locuslab/deq).
      "poly": η (1 − t / steps)^0.9 (`adjust_learning_rate` in `lib/utils/utils.py`, locuslab/deq).
      "step": η · `step_factor`^(number of `step_epochs` reached), PyTorch's `MultiStepLR`.
      "exponential": η · `decay_rate`^⌊t / `decay_steps`⌋, PyTorch's `ExponentialLR`.
      "one_cycle": a straight line from η / 25 up to η, reached at t = `cycle_rise` · steps − 1,
        then a straight line down to η / 250,000 at the last step; PyTorch's `OneCycleLR` with
        `anneal_strategy="linear"` (`train.py`, locuslab/deq-flow).

    A warm-up multiplies any of them by min(1, (t + 1) / `warmup_steps`).

    Args:
      optim: the section ``optim`` of the config.
      steps: number of steps of the training.
      steps_per_epoch: number of steps of an epoch.
    """
    schedule = _schedule(optim, steps, steps_per_epoch)
    if optim.warmup_steps == 0:
        return schedule
    return lambda t: schedule(t) * jnp.minimum(1, (t + 1) / optim.warmup_steps)


def _schedule(optim: OptimConfig, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Return the schedule without its warm-up."""
    peak = optim.learning_rate
    if optim.schedule == "constant":
        return optax.constant_schedule(peak)
    if optim.schedule == "step":
        drops = {epoch * steps_per_epoch: optim.step_factor for epoch in optim.step_epochs}
        return optax.piecewise_constant_schedule(peak, drops)
    if optim.schedule == "poly":
        return optax.polynomial_schedule(peak, 0.0, 0.9, steps)
    if optim.schedule == "exponential":
        interval = optim.decay_steps or steps_per_epoch
        return optax.exponential_decay(peak, interval, optim.decay_rate, staircase=True)
    if optim.schedule == "one_cycle":
        first = peak / _CYCLE_RISE
        times = jnp.array([0.0, max(optim.cycle_rise * steps - 1, 0.0), steps - 1])
        rates = jnp.array([first, peak, first / _CYCLE_FALL])
        return lambda t: jnp.interp(t, times, rates)
    return optax.cosine_decay_schedule(peak, steps, alpha=optim.learning_rate_floor / peak)


def create_optimizer(
    optim: OptimConfig, steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Return the optimizer: gradient clipping, weight decay, scaling and the learning rate.

    With the gradient g of the parameters p, the scaling S of the optimizer and the learning rate η,
    a step is p ← p − η S(g + λp) with coupled weight decay λ and p ← p − η (S(g) + λp) with
    decoupled weight decay. In a parameter group, η is multiplied by the group's factor and λ is the
    group's weight decay.

    Args:
      optim: the section ``optim`` of the config.
      steps: number of steps of the training, for the schedule.
      steps_per_epoch: number of steps of an epoch, for the schedule.

    Raises:
      ValueError: from the optimizer's `init`: an entry of `optim.groups` applies to no parameter.
    """
    clipping = (
        optax.identity() if optim.clip_norm is None else optax.clip_by_global_norm(optim.clip_norm)
    )
    scaling = {
        "adam": optax.scale_by_adam(),
        "sgd": optax.trace(optim.momentum, nesterov=optim.nesterov),
        "rmsprop": optax.chain(
            optax.scale_by_rms(_RMS_DECAY, _RMS_EPSILON, eps_in_sqrt=False),
            optax.trace(optim.momentum),
        ),
    }[optim.name]
    decay = _weight_decay(optim)
    middle = (decay, scaling) if optim.weight_decay_mode == "coupled" else (scaling, decay)
    rate = optax.scale_by_learning_rate(learning_rate(optim, steps, steps_per_epoch))
    return optax.chain(clipping, *middle, rate, *([_group_factors(optim)] if optim.groups else []))


def update_ema(ema: PyTree, params: PyTree, step: Int[Array, ""], decay: float) -> PyTree:
    """Return the exponential moving average of the parameters after one more step.

    ema ← d · ema + (1 − d) · params with d = min(decay, (1 + step) / (10 + step)), so that the
    initial parameters lose their weight in the first steps (TensorFlow's
    `ExponentialMovingAverage`).

    Args:
      ema: the average so far, initially the parameters themselves.
      params: the parameters after the step, of the shapes and dtypes of `ema`.
      step: () int32, number of steps taken before this one.
      decay: in [0, 1).
    """
    kept = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(
        lambda old, new: (old + (1 - kept) * (new - old)).astype(old.dtype), ema, params
    )


def batch_size_warning(
    batch_size: int, learning_rate: float, usual_batch_size: int, usual_learning_rate: float
) -> str | None:
    """Return a warning if the batch size is far from the config file's and the rate is not.

    Far means half or double the config file's batch size, or beyond. There is no warning if the
    learning rate differs from the config file's, because it was then chosen on purpose.

    Args:
      batch_size: training batch size of the run.
      learning_rate: learning rate of the run.
      usual_batch_size: training batch size in the config file.
      usual_learning_rate: learning rate in the config file.
    """
    near = usual_batch_size / 2 < batch_size < usual_batch_size * 2
    if near or learning_rate != usual_learning_rate:
        return None
    return (
        f"config.data.batch_size is {batch_size}, but the config file's learning rate, "
        f"{usual_learning_rate:g}, is for batches of {usual_batch_size}; in proportion, "
        f"config.optim.learning_rate would be "
        f"{usual_learning_rate * batch_size / usual_batch_size:g}."
    )


class _Group(NamedTuple):
    """An entry of `OptimConfig.groups`."""

    pattern: str
    factor: float
    weight_decay: float


def _group(optim: OptimConfig, path: jax.tree_util.KeyPath) -> _Group:
    """Return the first group whose pattern matches the path of a parameter."""
    groups = map(_Group._make, (*optim.groups, ("*", 1.0, optim.weight_decay)))
    return next(group for group in groups if fnmatch.fnmatchcase(_name(path), group.pattern))


def _name(path: jax.tree_util.KeyPath) -> str:
    """Return the path of a parameter, such as "cell/conv/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _weight_decay(optim: OptimConfig) -> optax.GradientTransformation:
    """Add to each update the parameter times the weight decay of its group."""

    def add(path: jax.tree_util.KeyPath, update: Array, param: Array) -> Array:
        decay = _group(optim, path).weight_decay
        return update + decay * param if decay else update

    return optax.stateless(functools.partial(jax.tree_util.tree_map_with_path, add))


def _group_factors(optim: OptimConfig) -> optax.GradientTransformation:
    """Multiply each update by the learning-rate factor of its group."""

    def init(params: PyTree) -> optax.EmptyState:
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        used = {_group(optim, path).pattern for path in paths}
        for pattern, *_ in optim.groups:
            if pattern not in used:
                raise ValueError(
                    f"config.optim.groups has an entry {pattern!r} that applies to no parameter: "
                    "none matches it, or all that do match an earlier entry. Parameters have paths "
                    f"such as {', '.join(map(_name, paths[:3]))}."
                )
        return optax.EmptyState()

    def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        del params
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, u: u * _group(optim, path).factor, updates
        )
        return scaled, state

    return optax.GradientTransformation(init, update)
