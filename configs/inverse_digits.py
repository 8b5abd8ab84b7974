"""A generator of digits whose latent codes are optimised, on a CPU in minutes.

    python train.py --config configs/inverse_digits.py --workdir runs/inverse_digits
    python -m mdeq_jax.commands.invert --checkpoint runs/inverse_digits --input DIGITS \\
        --task denoise --output restored

--config.model.latents=encoded trains the control, a variational autoencoder of the same generator.
The evaluation removes noise and fills in a hidden box. No data are downloaded: the images are
scikit-learn's digits of 8×8 pixels.

Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021.
"""

from ml_collections import ConfigDict

from mdeq_jax.inverse.generation.config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    config = to_config_dict(Config())
    config.model.branch_channels = (16,)
    config.data.batch_size = 32
    config.optimise.x_step = 0.3
    # Plain steps reach lower costs than Anderson here, and only if the Jacobian is small.
    config.solver.forward.name = "picard"
    config.solver.forward.max_steps = 40
    config.jacobian.probability = 1.0
    config.jacobian.weight = 4.0
    config.jacobian.step_jitter = 0
    config.optim.learning_rate = 3e-3
    config.optim.warmup_steps = 100
    config.train.steps = 500
    config.train.eval_every = 500
    return config
