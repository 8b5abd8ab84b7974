"""Learning-rate schedules and optimizers of the originals, from optax."""

import optax

from mdeq_jax.config import OptimConfig


def learning_rate(optim: OptimConfig, steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    "cosine" is η_min + (η − η_min)(1 + cos(π t / steps)) / 2, updated each step, with η_min =
    `learning_rate_floor` (`CosineAnnealingLR` in `tools/cls_train.py`, locuslab/deq).

    Args:
      optim: the section of the config.
      steps: of the whole training.
    """
    if optim.schedule == "constant":
        return optax.constant_schedule(optim.learning_rate)
    floor = optim.learning_rate_floor / optim.learning_rate
    return optax.cosine_decay_schedule(optim.learning_rate, steps, alpha=floor)


def create_optimizer(optim: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Return the optimizer: clipping, then coupled weight decay, then Adam's or SGD's scaling.

    Args:
      optim: the section of the config.
      steps: of the whole training, for the schedule.
    """
    scaling = {
        "adam": optax.scale_by_adam(),
        "sgd": optax.trace(optim.momentum, nesterov=optim.nesterov),
    }
    return optax.chain(
        optax.identity() if optim.clip_norm is None else optax.clip_by_global_norm(optim.clip_norm),
        optax.add_decayed_weights(optim.weight_decay),
        scaling[optim.name],
        optax.scale_by_learning_rate(learning_rate(optim, steps)),
    )
