"""Mazes: trained on 9×9, evaluated on up to 25×25, on a CPU in minutes.

    python train.py --config configs/mazes.py --workdir runs/mazes
    python -m mdeq_jax.commands.reason --checkpoint runs/mazes --steps 5,10,20,40,80

A position is a cell or a wall of the maze; --config.data.maze_resolution=pixels takes the published
layout, which shows each of them as 2×2 pixels, and --config.data.root=FOLDER reads published files.
No data are downloaded: the mazes are generated.

Sources: Schwarzschild et al., "Can You Learn an Algorithm? Generalizing from Easy to Hard Problems
with Recurrent Networks", NeurIPS 2021; Anil et al., "Path Independent Equilibrium Models Can Better
Exploit Test-Time Computation", NeurIPS 2022.
"""

from ml_collections import ConfigDict

from mdeq_jax.reasoning.config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    config = to_config_dict(Config())
    config.data.task = "mazes"
    config.data.size = 9
    config.data.batch_size = 64
    config.data.eval_batch_size = 64
    config.data.eval_problems = 128
    config.optim.learning_rate = 2e-3
    config.solver.forward.max_steps = 10
    config.evaluation.sizes = (9, 13, 17, 25)
    config.evaluation.steps = (30, 40, 60, 120)
    return config
