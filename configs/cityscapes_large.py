"""`cityscapes_small` at 2.5 times the width, 55,955,859 parameters.

    python train.py --config configs/cityscapes_large.py --workdir runs/cityscapes_large \\
        --config.init_from=runs/imagenet_large

Published: a figure in arXiv 2006.08656, which is not quoted here because it could not be checked.
Source: `experiments/cityscapes/seg_mdeq_LARGE.yaml`, locuslab/deq (4 GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("cityscapes_small")

    config.model.branch_channels = (80, 160, 320, 640)
    config.model.dropout = 0.03

    config.optim.weight_decay = 3e-4
    return config
