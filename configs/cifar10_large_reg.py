"""`cifar10_large` with Jacobian regularisation: a third of the solver steps.

    python train.py --config configs/cifar10_large_reg.py --workdir runs/cifar10_large_reg

Published: 93.1 ± 0.3 % at 6 steps (arXiv 2106.14342, ICML 2021, table 2). Source:
`experiments/cifar/cls_mdeq_LARGE_reg.yaml`, locuslab/deq (1 GPU).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("cifar10_large")

    config.model.dropout = 0.22

    config.solver.forward.max_steps = 8
    config.solver.backward.max_steps = 7

    config.jacobian.probability = 0.02
    config.jacobian.weight = 0.4
    config.jacobian.stop_epoch = 90

    config.data.batch_size = 96
    config.data.eval_batch_size = 96

    config.train.pretrain_steps = 16_000
    config.train.num_layers = 8
    return config
