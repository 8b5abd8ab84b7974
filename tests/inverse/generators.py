"""A small generator with random variables, for tests that train nothing."""

import functools

import jax

from mdeq_jax.inverse.generation.experiment import Config, create_experiment
from mdeq_jax.inverse.generation.model.config import ModelConfig
from mdeq_jax.training.config import override

SMALL = override(
    Config(model=ModelConfig(latent_size=4, branch_channels=(4,), num_groups=2, encoder_width=4)),
    {
        "data.batch_size": 8,
        "data.eval_batch_size": 120,
        "solver.forward.max_steps": 5,
        "solver.backward.max_steps": 5,
        "optim.learning_rate": 0.01,
        "evaluation.box": (3, 5),
        "train.steps": 2,
    },
)
ENCODED = override(SMALL, {"model.latents": "encoded"})


@functools.cache
def small():
    """The experiment of `SMALL`, and its variables."""
    experiment = create_experiment(SMALL)
    return experiment, jax.jit(experiment.init)(jax.random.key(0))
