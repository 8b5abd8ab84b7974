"""DEQ-Flow huge on Sintel, KITTI, HD1K and FlyingThings3D, for Sintel's test set.

    python train.py --config configs/flow_sintel_huge.py --workdir runs/flow_sintel_huge \\
        --config.data.root=FOLDER --config.init_from=runs/flow_things_huge

An epoch has each pair of Sintel 100 times in both passes, of KITTI 200 times and of HD1K 5 times.
The evaluation is on pairs that are trained on.

Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022; locuslab/
deq-flow, code.v.2.0.
"""

from ml_collections import ConfigDict

from mdeq_jax.training.config_files import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("flow_things_huge")
    config.data.stage = "sintel"
    config.data.crop = (368, 768)
    config.evaluation.sets = ("sintel_clean", "sintel_final")
    config.train.steps = 120_000
    return config
