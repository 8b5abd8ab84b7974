"""Optical flow on generated scenes, on a CPU in minutes.

    python train.py --config configs/flow_shapes.py --workdir runs/flow_shapes

A narrow DEQ-Flow (0.32 M parameters), trained on images of 64×64 and evaluated on images of 96×128.
A scene is a moving photograph behind two textured polygons, each with its own affine motion of up
to 16 pixels; the flow is known in closed form. No data are downloaded: the photographs are
scikit-learn's, other halves for the evaluation.

Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022.
"""

from ml_collections import ConfigDict

from mdeq_jax.flow.config import Config
from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.training.sections import to_config_dict

NANO = ModelConfig(
    encoder=(8, 16, 32),
    features=32,
    hidden=32,
    correlation=(64, 48),
    flow=(32, 16),
    motion=32,
    head=64,
    mask=64,
    levels=3,
    radius=3,
    detach_flow=False,
)


def get_config() -> ConfigDict:
    """Return the config."""
    config = to_config_dict(Config(model=NANO))
    config.data.objects = 2
    config.data.max_motion = 16.0
    config.data.eval_size = (96, 128)
    config.solver.forward.max_steps = 12
    config.evaluation.steps = 12
    config.correction.states = 2
    config.adjoint.steps = 3
    config.optim.learning_rate = 1e-3
    # Solves of one length give a cell that leads away from its equilibrium in longer ones.
    config.train.fewest_solver_steps = 4
    config.train.steps = 2000
    config.train.eval_every = 2000
    return config
