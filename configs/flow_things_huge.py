"""DEQ-Flow huge on FlyingThings3D, trained three times as long as `flow_things_base`.

    python train.py --config configs/flow_things_huge.py --workdir runs/flow_things_huge \\
        --config.data.root=FOLDER --config.init_from=runs/flow_chairs_huge

The weights to start from are those of `flow_chairs_base` with the widths of this config.

Published: end-point error 1.27 (Sintel clean) and 2.48 (final), KITTI 3.77, F1-all 13.41 %, with
120 steps. Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022;
locuslab/deq-flow, code.v.2.0 (3 GPUs).
"""

import dataclasses

from ml_collections import ConfigDict

from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.training.config_files import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("flow_things_base")
    huge = dataclasses.replace(ModelConfig.published("huge"), detach_flow=False)
    config.model = ConfigDict(dataclasses.asdict(huge))
    config.evaluation.steps = 120
    config.train.steps = 360_000
    return config
