"""`imagenet_small` at 2.5 times the width, 67,063,624 parameters.

    python train.py --config configs/imagenet_large.py --workdir runs/imagenet_large

Published: 77.5 % top-1 at 30 steps (arXiv 2106.14342, ICML 2021, table 2). Source:
`experiments/imagenet/cls_mdeq_LARGE.yaml`, locuslab/deq (4 GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("imagenet_small")

    config.model.branch_channels = (80, 160, 320, 640)
    config.model.head_channels = (32, 64, 128, 256)

    config.optim.weight_decay = 1e-4

    config.train.num_layers = 4
    return config
