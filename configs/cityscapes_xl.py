"""The widest Cityscapes model, 79,551,755 parameters, on taller crops of 1024×768.

    python train.py --config configs/cityscapes_xl.py --workdir runs/cityscapes_xl \\
        --config.init_from=runs/imagenet_xl

Published: above 80 % mIoU on the validation set, for the largest model (arXiv 2006.08656). Source:
`experiments/cityscapes/seg_mdeq_XL.yaml`, locuslab/deq (8 GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("cityscapes_large")

    config.model.branch_channels = (88, 176, 352, 704)
    config.model.expansion = 6
    config.model.dropout = 0.04

    config.data.image_size = (768, 1024)
    config.data.batch_size = 16
    config.data.eval_batch_size = 8

    config.train.pretrain_steps = 40_000
    return config
