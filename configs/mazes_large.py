"""Mazes in the published layout with a network of published width, for one GPU.

    python train.py --config configs/mazes_large.py --workdir runs/mazes_large
    python train.py --config configs/mazes_large.py --config.data.root=FOLDER --workdir runs/mazes

Trained on 9×9, evaluated on up to 59×59. FOLDER holds the folders of easy-to-hard-data, such as
maze_data_train_9; without it the mazes are generated. Each maze is a picture of 2·size + 6 pixels.

Sources: Schwarzschild et al., "Can You Learn an Algorithm? Generalizing from Easy to Hard Problems
with Recurrent Networks", NeurIPS 2021; Bansal et al., "End-to-end Algorithm Synthesis with
Recurrent Networks", NeurIPS 2022, for widths and batch size.
"""

from ml_collections import ConfigDict

from mdeq_jax.training.config_files import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("mazes")
    config.data.maze_resolution = "pixels"
    config.data.batch_size = 50
    config.data.train_problems = 50_000
    config.data.eval_problems = 512
    config.model.width = 128
    config.solver.forward.max_steps = 25
    config.optim.learning_rate = 1e-3
    config.train.steps = 20_000
    config.train.eval_every = 5_000
    config.evaluation.sizes = (9, 13, 17, 33, 59)
    config.evaluation.steps = (60, 100, 150, 400, 1000)
    return config
