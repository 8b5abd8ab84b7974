"""Weight normalisation as a transform of parameter trees."""

import jax
import numpy as np

from mdeq_jax.layers import weight_norm

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
