"""DEQ-Flow base on FlyingChairs, the first stage of the published recipe; one GPU.

    python train.py --config configs/flow_chairs_base.py --workdir runs/flow_chairs_base \\
        --config.data.root=FOLDER

FOLDER holds FlyingChairs_release and chairs_split.txt. The solve takes 36 plain steps in 6 slices,
with a loss after one more step on each.

Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022;
`code.v.2.0/train_H.sh` of locuslab/deq-flow, with its base model.
"""

from ml_collections import ConfigDict

from mdeq_jax.flow.config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    config = to_config_dict(Config())
    config.data.stage = "chairs"
    config.data.root = "data"
    config.data.crop = (368, 496)
    config.data.batch_size = 12
    config.data.eval_batch_size = 8
    config.data.threads = 8
    config.evaluation.sets = ("chairs",)
    config.evaluation.steps = 60
    config.solver.forward.max_steps = 36
    config.correction.states = 6
    config.optim.learning_rate = 4e-4
    config.train.steps = 120_000
    config.train.eval_every = 5_000
    return config
