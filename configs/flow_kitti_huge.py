"""DEQ-Flow huge on KITTI 2015, for KITTI's test set.

    python train.py --config configs/flow_kitti_huge.py --workdir runs/flow_kitti_huge \\
        --config.data.root=FOLDER --config.init_from=runs/flow_sintel_huge

The evaluation is on the pairs that are trained on.

Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022; locuslab/
deq-flow, code.v.2.0.
"""

from ml_collections import ConfigDict

from mdeq_jax.training.config_files import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("flow_sintel_huge")
    config.data.stage = "kitti"
    config.data.crop = (288, 960)
    config.evaluation.sets = ("kitti",)
    config.optim.learning_rate = 1e-4
    config.train.steps = 50_000
    return config
