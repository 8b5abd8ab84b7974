"""`imagenet_large` with Jacobian regularisation and half the solver steps; 67,061,224 parameters.

    python train.py --config configs/imagenet_large_reg.py --workdir runs/imagenet_large_reg

Published: 76.8 % top-1 at 15 steps (arXiv 2106.14342, ICML 2021, table 2). Source:
`experiments/imagenet/cls_mdeq_LARGE_reg.yaml`, locuslab/deq (4 GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("imagenet_large")

    config.model.post_gn_affine = False

    config.solver.forward.max_steps = 14
    config.solver.backward.max_steps = 14

    config.jacobian.probability = 0.08
    config.jacobian.weight = 3.0
    config.jacobian.pretrain_weight = 0.03
    config.jacobian.increment_steps = 50_000
    return config
