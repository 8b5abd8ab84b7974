"""Weight normalisation as a transform of parameter trees."""

import jax
import jax.numpy as jnp
import numpy as np

from mdeq_jax.vision.model import ModelConfig, weight_norm
from mdeq_jax.vision.model.cell import init_cell

PARAMS = {
    "block": {
        "conv": {"kernel": np.random.default_rng(0).normal(size=(3, 3, 4, 5))},
        "norm": {"scale": np.ones(5)},
    },
    "fuse": {"conv": {"kernel": np.ones((1, 1, 4, 5))}},
}


def test_merge_undoes_split(x64):
    parts = weight_norm.split(PARAMS, lambda name: name == "block")
    merged = weight_norm.merge(parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), merged, PARAMS)


def test_split_takes_the_chosen_kernels_only():
    parts = weight_norm.split(PARAMS, lambda name: name == "block")
    assert set(parts["block"]["conv"]) == {"g", "v"}
    assert set(parts["block"]["norm"]) == {"scale"}
    assert set(parts["fuse"]["conv"]) == {"kernel"}


def test_merged_kernels_have_length_g_per_output_channel(x64):
    v = np.random.default_rng(0).normal(size=(3, 3, 4, 5))
    g = np.arange(1.0, 6.0)
    kernel = weight_norm.merge({"g": g, "v": v})["kernel"]
    np.testing.assert_allclose(np.linalg.norm(kernel.reshape(-1, 5), axis=0), g, rtol=1e-12)
    rescaled = weight_norm.merge({"g": g, "v": 7 * v})["kernel"]
    np.testing.assert_allclose(rescaled, kernel, rtol=1e-12)


def test_initial_values_are_the_originals():
    config = ModelConfig(expansion=2)
    cell = init_cell(jax.random.key(0), config)
    conv = cell["branches_0_blocks_0"]["conv1"]
    bound = (24 * 9) ** -0.5
    assert 0.95 * bound < jnp.abs(conv["v"]).max() <= bound
    np.testing.assert_allclose(conv["v"].std(), bound / 3**0.5, rtol=0.05)
    lengths = np.linalg.norm(conv["v"].reshape(-1, 48), axis=0)
    np.testing.assert_allclose(conv["g"], lengths, rtol=1e-5)
    fused = cell["fuse_layers_1_0"]["net_0"]["conv"]["kernel"]
    np.testing.assert_allclose(fused.std(), 0.01, rtol=0.05)
    assert set(cell["post_fuse_layers_1"]["conv"]) == {"g", "v"}


def test_without_weight_norm_all_kernels_are_plain_and_small():
    cell = init_cell(jax.random.key(0), ModelConfig(expansion=2, weight_norm=False))
    conv = cell["branches_0_blocks_0"]["conv1"]
    assert set(conv) == {"kernel"}
    np.testing.assert_allclose(conv["kernel"].std(), 0.01, rtol=0.05)
