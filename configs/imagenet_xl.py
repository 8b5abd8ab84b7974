"""The widest ImageNet model, 90,463,280 parameters.

    python train.py --config configs/imagenet_xl.py --workdir runs/imagenet_xl

Published: a figure in arXiv 2006.08656, which is not quoted here because it could not be checked.
Source: `experiments/imagenet/cls_mdeq_XL.yaml`, locuslab/deq (8 GPUs). In that file, the warm-up of
510,000 steps is longer than the training: 100 epochs have 500,400 steps at this batch size.
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("imagenet_large")

    config.model.branch_channels = (88, 176, 352, 704)
    config.model.expansion = 6

    config.data.batch_size = 256
    config.data.eval_batch_size = 256
    return config
