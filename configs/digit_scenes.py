"""Digits in front of photographs (64×64), labelled by pixel, trained in minutes on two CPU cores.

    python train.py --config configs/digit_scenes.py --workdir runs/digit_scenes

No data are downloaded: 3,000 training and 200 test scenes are composed of scikit-learn's digits and
photographs. Three branches, 178,491 parameters. The solver is stopped well before it converges;
benchmarks/RESULTS.md has the measured figures.
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import default_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = default_config()

    config.model.task = "segmentation"
    config.model.num_classes = 11
    config.model.branch_channels = (16, 32, 48)
    config.model.blocks_per_branch = (1, 1, 1)
    config.model.big_kernels = (0, 0, 0)
    config.model.expansion = 2
    config.model.downsample_times = 1
    config.model.post_gn_affine = True

    config.data.name = "digit_scenes"
    config.data.image_size = (64, 64)
    config.data.batch_size = 16
    config.data.eval_batch_size = 50

    # Most pixels are background. With equal weights, training would for long only separate digits
    # from background, and not from each other.
    config.loss.class_weights = (0.05, *[1.0] * 10)

    config.solver.forward.max_steps = 12
    config.solver.backward.max_steps = 10

    config.optim.learning_rate = 3e-3
    config.train.epochs = 12
    config.train.pretrain_steps = 1200
    config.train.num_layers = 5
    config.train.eval_every = 300
    return config
