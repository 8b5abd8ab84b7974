"""Learning-rate schedules and optimizers of the originals, from optax; the batch they are for."""

import optax

from mdeq_jax.training.config import OptimConfig
from mdeq_jax.training.config import RunConfig as Config

# PyTorch's defaults for RMSprop: the decay of the mean square, and what is added to its root.
_RMS_DECAY, _RMS_EPSILON = 0.99, 1e-8


def learning_rate(optim: OptimConfig, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Return the learning rate as a function of the step t.

    "cosine" is η_min + (η − η_min)(1 + cos(π t / steps)) / 2, updated each step, with η_min =
    `learning_rate_floor` (`CosineAnnealingLR` in `tools/cls_train.py`, locuslab/deq); "poly" is
    η (1 − t / steps)^0.9 (`adjust_learning_rate` in `lib/utils/utils.py` there); "step" is
    `MultiStepLR`.

    Args:
      optim: the section of the config.
      steps: of the whole training.
      steps_per_epoch: number of steps of an epoch.
    """
    if optim.schedule == "constant":
        return optax.constant_schedule(optim.learning_rate)
    if optim.schedule == "step":
        drops = {epoch * steps_per_epoch: optim.step_factor for epoch in optim.step_epochs}
        return optax.piecewise_constant_schedule(optim.learning_rate, drops)
    if optim.schedule == "poly":
        return optax.polynomial_schedule(optim.learning_rate, 0.0, 0.9, steps)
    floor = optim.learning_rate_floor / optim.learning_rate
    return optax.cosine_decay_schedule(optim.learning_rate, steps, alpha=floor)


def create_optimizer(
    optim: OptimConfig, steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Return the optimizer: clipping, then coupled weight decay, then the scaling of its name.

    Args:
      optim: the section of the config.
      steps: of the whole training, for the schedule.
      steps_per_epoch: number of steps of an epoch, likewise.
    """
    scaling = {
        "adam": optax.scale_by_adam(),
        "sgd": optax.trace(optim.momentum, nesterov=optim.nesterov),
        "rmsprop": optax.chain(
            optax.scale_by_rms(_RMS_DECAY, _RMS_EPSILON, eps_in_sqrt=False),
            optax.trace(optim.momentum),
        ),
    }
    return optax.chain(
        optax.identity() if optim.clip_norm is None else optax.clip_by_global_norm(optim.clip_norm),
        optax.add_decayed_weights(optim.weight_decay),
        scaling[optim.name],
        optax.scale_by_learning_rate(learning_rate(optim, steps, steps_per_epoch)),
    )


def batch_size_warning(config: Config, recipe: Config) -> str | None:
    """Return what to say if the batch is twice or half what the recipe's is, or further.

    Nothing if the learning rate is another than the recipe's, and so chosen.

    Args:
      config: of the run.
      recipe: what its config file says, whose learning rate goes with its batch.
    """
    size, usual = config.data.batch_size, recipe.data.batch_size
    rate = recipe.optim.learning_rate
    if usual / 2 < size < usual * 2 or config.optim.learning_rate != rate:
        return None
    return (
        f"config.data.batch_size is {size}, but the config file's learning rate, {rate:g}, is for "
        f"batches of {usual}; in proportion, config.optim.learning_rate would be "
        f"{rate * size / usual:g}."
    )
