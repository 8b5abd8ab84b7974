"""Real handwritten digits (scikit-learn's 1,797, 8×8), trained in minutes on two CPU cores.

    python train.py --config configs/digits.py --workdir runs/digits

The architecture is the originals' CIFAR-10 tiny (`cls_mdeq_TINY.yaml`, locuslab/deq): 158,890
parameters. No data are downloaded. benchmarks/RESULTS.md has the measured figures.
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import default_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = default_config()
    config.data.name = "digits"
    config.data.batch_size = 48
    config.model.dropout = 0.2
    config.optim.learning_rate = 2e-3
    config.train.epochs = 32
    config.train.pretrain_steps = 700
    config.train.num_layers = 5
    return config
