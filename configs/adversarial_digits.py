"""Adversarial training of a classifier of digits, on a CPU in minutes.

    python train.py --config configs/adversarial_digits.py --workdir runs/adversarial_digits

Training solves for the worst perturbation in an L2 ball and for the equilibrium in one augmented
fixed point. --config.attack.method=pgd is the control: projected gradient ascent, which solves an
equilibrium and its adjoint in each step. --config.attack.method=none trains on clean images.
Evaluation attacks by projected gradient ascent with restarts and step halving, which no training
uses. No data are downloaded: the images are the 1,797 digits of scikit-learn.

Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021.
"""

from ml_collections import ConfigDict

from mdeq_jax.inverse.adversarial.config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    return to_config_dict(Config())
