"""`imagenet_small` with Jacobian regularisation and half the solver steps; 18,613,496 parameters.

    python train.py --config configs/imagenet_small_reg.py --workdir runs/imagenet_small_reg

Published: 74.5 % top-1 at 14 steps (arXiv 2106.14342, ICML 2021, table 2). Source:
`experiments/imagenet/cls_mdeq_SMALL_reg.yaml`, locuslab/deq (4 GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("imagenet_small")

    config.model.head_channels = (28, 56, 112, 224)
    config.model.post_gn_affine = False
    config.model.dropout = 0.02

    config.solver.forward.max_steps = 14
    config.solver.backward.max_steps = 14

    config.jacobian.probability = 0.08
    config.jacobian.weight = 2.5
    config.jacobian.pretrain_weight = 0.03
    config.jacobian.increment_steps = 50_000

    config.optim.learning_rate = 0.04
    config.optim.weight_decay = 2e-5
    return config
