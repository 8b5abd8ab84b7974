"""A ResNet of 149,738 parameters, about as many as the equilibrium model of `configs/digits.py`.

    python train.py --config configs/digits_resnet.py --workdir runs/digits_resnet

Data, optimizer and number of epochs equal those in `configs/digits.py`. These options train a
neural ODE of 156,318 parameters instead:

    --config.model.kind=neural_ode --config.model.width=92 --config.model.depth=4
"""

from ml_collections import ConfigDict

from mdeq_jax.comparison.baselines import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    config = to_config_dict(Config())
    config.data.name = "digits"
    config.data.batch_size = 48
    config.model.kind = "resnet"
    config.model.width = 32
    config.optim.learning_rate = 2e-3
    config.train.epochs = 32
    return config
