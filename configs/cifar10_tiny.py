"""CIFAR-10 without augmentation, two branches, 158,890 parameters.

    python train.py --config configs/cifar10_tiny.py --workdir runs/cifar10_tiny

Data: CIFAR-10, 50,000 training and 10,000 test images of 32×32. Published: 87.1 ± 0.4 %
(arXiv 2006.08656, table 1, MDEQ-small); the authors expect above 85 % with these settings. Source:
`experiments/cifar/cls_mdeq_TINY.yaml`, locuslab/deq (2 GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import default_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = default_config()

    config.model.branch_channels = (24, 24)
    config.model.head_channels = (8, 16)
    config.model.final_channels = 200
    config.model.dropout = 0.25

    config.solver.forward.max_steps = 18
    config.solver.backward.max_steps = 20

    config.data.name = "cifar10"
    config.data.image_size = (32, 32)
    config.data.augment = False
    config.data.batch_size = 128
    config.data.eval_batch_size = 64

    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 2.5e-6

    config.train.epochs = 50
    config.train.pretrain_steps = 3_000
    config.train.num_layers = 10
    return config
