"""Digits before photographs (64×64), labelled by pixel, trained in minutes on two CPU cores.

    python train.py --config configs/digit_scenes.py --workdir runs/digit_scenes

Nothing is downloaded: 1,500 training and 200 test scenes are composed of scikit-learn's digits and
photographs. Three branches, 243,291 parameters.
"""

from ml_collections import ConfigDict

from mdeq_jax.config import default_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = default_config()

    config.model.task = "segmentation"
    config.model.num_classes = 11
    config.model.branch_channels = (16, 32, 48)
    config.model.blocks_per_branch = (1, 1, 1)
    config.model.big_kernels = (0, 0, 0)
    config.model.expansion = 3
    config.model.downsample_times = 1
    config.model.post_gn_affine = True
    config.model.dropout = 0.05

    config.data.name = "digit_scenes"
    config.data.image_size = (64, 64)
    config.data.batch_size = 16
    config.data.eval_batch_size = 50

    config.optim.learning_rate = 2e-3
    config.train.epochs = 10
    config.train.pretrain_steps = 700
    config.train.num_layers = 5
    return config
