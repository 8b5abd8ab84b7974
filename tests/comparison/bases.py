"""The configs that settings are tried on, and a model that compiles and trains in seconds."""

import importlib
import sys
from pathlib import Path

from mdeq_jax.applications import finalize
from mdeq_jax.vision.config import Config, override

ROOT = Path(__file__).parents[2]

TINY = {
    "model.branch_channels": (8,),
    "model.blocks_per_branch": (1,),
    "model.big_kernels": (0,),
    "model.head_channels": (4,),
    "model.final_channels": 16,
    "model.num_groups": 4,
    "model.expansion": 1,
    "solver.forward.name": "picard",
    "solver.forward.max_steps": 6,
    # As tight as what gradients are held against.
    "solver.backward.max_steps": 100,
    "solver.backward.tol": 1e-6,
    "data.batch_size": 8,
    "train.pretrain_steps": 0,
    "train.steps": 2,
}


def load(name: str) -> Config:
    """A config of the project."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return finalize(importlib.import_module(f"configs.{name}").get_config())


def tiny(scratch: Path) -> Config:
    """The digits config with a tiny model; the data set is put below a folder."""
    return override(load("digits"), {**TINY, "data.dir": str(scratch / "data")})
