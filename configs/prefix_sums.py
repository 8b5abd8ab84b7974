"""Prefix sums of bits: trained on strings of 16 bits, evaluated on up to 256, on a CPU in minutes.

    python train.py --config configs/prefix_sums.py --workdir runs/prefix_sums
    python -m mdeq_jax.commands.reason --checkpoint runs/prefix_sums --steps 10,30,60,120,240

The cell is the recurrent network with recall of deep-thinking, 32 channels wide, with GroupNorm at
each position. Each step's solve takes 3 to 12 plain steps without a gradient, from zeros or from a
random state, and then 5 steps with one. No data are downloaded: the problems are generated.

Sources: Schwarzschild et al., "Can You Learn an Algorithm? Generalizing from Easy to Hard Problems
with Recurrent Networks", NeurIPS 2021; Anil et al., "Path Independent Equilibrium Models Can Better
Exploit Test-Time Computation", NeurIPS 2022.
"""

from ml_collections import ConfigDict

from mdeq_jax.reasoning.config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    return to_config_dict(Config())
