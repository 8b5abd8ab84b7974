"""Meta-learning of sinusoids with a task vector, on a CPU in minutes.

    python train.py --config configs/meta_sinusoid.py --workdir runs/meta_sinusoid

A task is a sinusoid with 10 support points. One augmented fixed point adapts the task vector to
these points and finds their equilibrium. Training differentiates this optimum by its implicit
gradient. --config.loss.second_order=False leaves out how the task vector depends on the weights.
No data are downloaded: the tasks are generated.

Sources: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021; Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of
Deep Networks", ICML 2017, for the tasks.
"""

from ml_collections import ConfigDict

from mdeq_jax.inverse.meta.config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    return to_config_dict(Config())
