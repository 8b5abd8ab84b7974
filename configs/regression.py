"""Regression of a curve by an equilibrium of one number, 200 parameters.

    python train.py --config configs/regression.py --workdir runs/regression

Data: 4,096 pairs to train on and 1,000 to validate, drawn from the seed. The Jacobian is
regularised by --config.jacobian.probability=1.0 --config.jacobian.weight=0.5, where 0.5 is γ;
`python -m mdeq_jax.apps.regression` trains under several γ. Source: section 4.1 of arXiv
2106.14342, ICML 2021.
"""

from ml_collections import ConfigDict

from mdeq_jax.apps.regression_config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    return to_config_dict(Config())
