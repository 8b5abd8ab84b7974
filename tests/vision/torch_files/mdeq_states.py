"""The state dict of any MDEQ, with random numbers."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mdeq_jax.torch_files.names import torch_name, torch_shape
from mdeq_jax.vision.model import ModelConfig, create_model
from mdeq_jax.vision.torch_files.keys import layer_table

FIXTURES = Path(__file__).parents[2] / "fixtures"


def load_config(name):
    return ModelConfig(**json.loads((FIXTURES / f"{name}.json").read_text()))


def random_state(config, dtype=np.float32):
    """Random arrays by PyTorch name, about 1 where they scale."""
    side = config.size_divisor
    images = jnp.zeros((1, side, side, 3))
    shapes = jax.eval_shape(create_model(config).init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    state = {}
    for (_, *path), leaf in traverse_util.flatten_dict(shapes).items():
        values = rng.uniform(-0.3, 0.3, size=torch_shape(path, leaf.shape))
        about_one = path[-1] in ("g", "scale", "var")
        state[torch_name(path, layer_table(config.task))] = (values + about_one).astype(dtype)
    return state


def fold(state):
    """The state dict with each g and v folded into its weight, as a model saved for inference."""
    folded = {name: a for name, a in state.items() if not name.endswith(("_g", "_v"))}
    for name, g in state.items():
        if name.endswith("_g"):
            v = state[f"{name.removesuffix('_g')}_v"]
            norm = np.sqrt((v**2).sum((1, 2, 3), keepdims=True))
            folded[name.removesuffix("_g")] = g * v / norm
    return folded
