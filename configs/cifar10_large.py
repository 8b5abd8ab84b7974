"""CIFAR-10 with augmentation, four branches, 11,097,438 parameters.

    python train.py --config configs/cifar10_large.py --workdir runs/cifar10_large

Data: CIFAR-10, 50,000 training and 10,000 test images of 32×32, randomly cropped (padding 4) and
flipped. Published: 93.6 ± 0.2 % at 17 steps (arXiv 2106.14342, ICML 2021, table 2). Source:
`experiments/cifar/cls_mdeq_LARGE.yaml`, locuslab/deq (4 GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import default_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = default_config()

    config.model.branch_channels = (32, 64, 128, 256)
    config.model.blocks_per_branch = (1, 1, 1, 1)
    config.model.big_kernels = (0, 0, 0, 0)
    config.model.head_channels = (14, 28, 56, 112)
    config.model.final_channels = 1680
    config.model.dropout = 0.3

    config.solver.forward.max_steps = 18
    config.solver.backward.max_steps = 20

    config.data.name = "cifar10"
    config.data.image_size = (32, 32)
    config.data.batch_size = 128
    config.data.eval_batch_size = 128

    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3

    config.train.epochs = 220
    config.train.pretrain_steps = 20_000
    config.train.num_layers = 10
    return config
