"""DEQ-Flow base on FlyingThings3D, the second stage of the published recipe; one GPU.

    python train.py --config configs/flow_things_base.py --workdir runs/flow_things_base \\
        --config.data.root=FOLDER --config.init_from=runs/flow_chairs_base

FOLDER holds FlyingThings3D, Sintel and KITTI; the last two are for evaluation. The solve takes 40
plain steps in 2 slices, with a loss after three more steps on each. The published figures on KITTI
need --config.data.eval_batch_size=1: larger batches pad its images to one size.

Published, with TorchDEQ: end-point error 1.39 (Sintel clean) and 2.77 (final), KITTI 4.46, F1-all
14.18 %. Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022;
`code.v.2.0/train_H.sh` of locuslab/deq-flow, with its base model.
"""

from ml_collections import ConfigDict

from mdeq_jax.training.config_files import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("flow_chairs_base")
    config.data.stage = "things"
    config.data.crop = (400, 720)
    config.data.batch_size = 6
    config.evaluation.sets = ("sintel_clean", "sintel_final", "kitti")
    config.freeze_norm = True
    config.model.detach_flow = False
    config.solver.forward.max_steps = 40
    config.correction.states = 2
    config.adjoint.steps = 3
    config.optim.learning_rate = 1.25e-4
    return config
