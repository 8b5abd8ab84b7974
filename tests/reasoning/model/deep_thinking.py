"""Checkpoints of deep-thinking, and what its code computes with them."""

import json
from pathlib import Path

import numpy as np

from mdeq_jax.reasoning.model.config import ModelConfig
from mdeq_jax.reasoning.model.recurrent import RecurrentNet

FIXTURES = Path(__file__).parents[2] / "fixtures/reasoning"
NAMES = ("dt1d", "dt1d_gn", "dt1d_norecall", "dt2d", "dt2d_gn")


def load_model(name, **changes):
    """The model of a fixture by its json, which says how upstream's code made it."""
    about = json.loads((FIXTURES / f"{name}.json").read_text())
    config = {
        "width": about["width"],
        "recall": about["recall"],
        "norm": "group" if about["group_norm"] else "none",
        "start": "projection",
    }
    config = ModelConfig(**(config | changes))
    return RecurrentNet(config, about["in_channels"], 2, about["dim"])


def load_arrays(name):
    with np.load(FIXTURES / f"{name}.npz") as file:
        return dict(file)


def to_grid(array):
    """Upstream's (B, C, W) or (B, C, H, W) as (B, H, W, C)."""
    array = array[:, :, None] if array.ndim == 3 else array
    return np.moveaxis(array, 1, -1)
