"""Optical flow on generated scenes, on a CPU in minutes.

    python train.py --config configs/flow_shapes.py --workdir runs/flow_shapes

A narrow DEQ-Flow (0.2 M parameters) on images of 64×64. A scene is a moving photograph behind three
textured polygons, each with its own affine motion of up to 6 pixels; the flow is known in closed
form. No data are downloaded: the photographs are scikit-learn's, other halves for the evaluation.

Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022.
"""

from ml_collections import ConfigDict

from mdeq_jax.flow.config import Config
from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.training.sections import to_config_dict

NANO = ModelConfig(
    encoder=(16, 24, 32),
    features=32,
    hidden=32,
    correlation=(64, 48),
    flow=(32, 16),
    motion=32,
    head=64,
    mask=64,
    levels=3,
    radius=3,
)


def get_config() -> ConfigDict:
    """Return the config."""
    return to_config_dict(Config(model=NANO))
