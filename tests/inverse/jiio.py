"""The fixture of locuslab/JIIO-DEQ: its generator with random weights, inputs and outputs."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mdeq_jax.inverse.generation.model.config import ModelConfig
from mdeq_jax.inverse.generation.model.generator import Generator

FIXTURES = Path(__file__).parent.parent / "fixtures" / "inverse"
FILE = FIXTURES / "jiio.pth"
OPTIONS = json.loads((FIXTURES / "jiio.json").read_text())
CONFIG = ModelConfig(
    latent_size=OPTIONS["ENCODING_CHANNELS"],
    branch_channels=tuple(OPTIONS["NUM_CHANNELS"]),
    expansion=OPTIONS["EXPANSION_FACTOR"],
    num_groups=OPTIONS["NUM_GROUPS"],
    upsampling=OPTIONS["DOWNSAMPLE_TIMES"],
    output=OPTIONS["OUTPUT_NL"],
)
MODEL = Generator(CONFIG, tuple(OPTIONS["IMAGE_SIZE"][1:]), OPTIONS["IMAGE_SIZE"][0])


def load():
    """Arrays by name, float64: images channels last with pixels in [0, 1], and flat states."""
    return {
        name: jnp.asarray((array.transpose(0, 2, 3, 1) + 1) / 2 if array.ndim == 4 else array)
        for name, array in jax.tree.map(np.float64, dict(np.load(FIXTURES / "jiio.npz"))).items()
    }


def as_state(flat):
    """The branches, channels last, of flat states (B, n)."""
    branches, start = [], 0
    for channels, height, width in OPTIONS["branch_shapes"]:
        stop = start + channels * height * width
        branch = flat[:, start:stop].reshape(-1, channels, height, width)
        branches.append(jnp.moveaxis(branch, 1, 3))
        start = stop
    return tuple(branches)


def as_flat(state):
    """The flat states (B, n) of branches."""
    return jnp.concatenate(
        [jnp.moveaxis(branch, 3, 1).reshape(len(branch), -1) for branch in state], axis=1
    )
