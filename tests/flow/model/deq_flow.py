"""Checkpoints of DEQ-Flow, and what its code computes with them."""

import json
from pathlib import Path

import numpy as np

from mdeq_jax.flow.model.config import ModelConfig

FIXTURES = Path(__file__).parents[2] / "fixtures/flow"
NAMES = ("flow", "flow_gma")


def load_config(name):
    """The architecture of a fixture by its json, which says how upstream's code made it."""
    about = json.loads((FIXTURES / f"{name}.json").read_text())
    widths = about["widths"]
    return ModelConfig(
        encoder=tuple(widths["encoder"]),
        features=widths["odim"],
        hidden=widths["hdim"],
        correlation=(widths["c_dim_1"], widths["c_dim_2"]),
        flow=(widths["f_dim_1"], widths["f_dim_2"]),
        motion=widths["cat_dim"],
        head=about["flow_head_dim"],
        mask=widths["mask_hidden"],
        levels=about["corr_levels"],
        radius=about["corr_radius"],
        weight_norm=about["wnorm"],
        attention=about["gma"],
        detach_flow=not about["all_grad"],
    )


def load_arrays(name):
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: np.float64(array) for key, array in file.items() if array.dtype.kind != "U"}


def to_grid(array):
    """Upstream's (B, C, H, W) as (B, H, W, C)."""
    return np.moveaxis(array, 1, -1)


def pixels(height, width):
    """The place (x, y) of every pixel, (H, W, 2)."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
