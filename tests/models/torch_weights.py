"""The originals' weights and gradients, by PyTorch name, as trees of ours."""

import json
import re
from pathlib import Path

import numpy as np
from flax import traverse_util

from mdeq_jax.models import ModelConfig

FIXTURES = Path(__file__).parent.parent / "fixtures"

# PyTorch names count the layers of a Sequential; these are the ones of a convolution and its norm.
_NAMES = [
    (r"^downsample\.0\.", "stem.downsample_0.conv."),
    (r"^downsample\.1\.", "stem.downsample_0.bn."),
    (r"^downsample\.3\.", "stem.downsample_1.conv."),
    (r"^downsample\.4\.", "stem.downsample_1.bn."),
    (r"^stage0\.0\.", "stem.stage0.conv."),
    (r"^stage0\.1\.", "stem.stage0.bn."),
    (r"^fullstage\.branches\.(\d+)\.blocks\.(\d+)\.", r"cell.branches_\1_blocks_\2."),
    (r"^fullstage\.fuse_layers\.(\d+)\.(\d+)\.net\.(\d+)\.", r"cell.fuse_layers_\1_\2.net_\3."),
    (r"^fullstage\.fuse_layers\.(\d+)\.(\d+)\.net\.", r"cell.fuse_layers_\1_\2.net."),
    (r"^fullstage\.post_fuse_layers\.(\d+)\.", r"cell.post_fuse_layers_\1."),
    (r"^incre_modules\.(\d+)\.0\.conv(\d)\.", r"head.incre_modules_\1.layer\2.conv."),
    (r"^incre_modules\.(\d+)\.0\.bn(\d)\.", r"head.incre_modules_\1.layer\2.bn."),
    (r"^incre_modules\.(\d+)\.0\.downsample\.0\.", r"head.incre_modules_\1.shortcut.conv."),
    (r"^incre_modules\.(\d+)\.0\.downsample\.1\.", r"head.incre_modules_\1.shortcut.bn."),
    (r"^(downsamp_modules)\.(\d+)\.0\.", r"head.\1_\2.conv."),
    (r"^(downsamp_modules)\.(\d+)\.1\.", r"head.\1_\2.bn."),
    (r"^final_layer\.0\.", "head.final_layer.conv."),
    (r"^final_layer\.1\.", "head.final_layer.bn."),
    (r"^classifier\.", "head.classifier."),
    (r"^last_layer\.0\.", "head.last_layer.conv."),
    (r"^last_layer\.1\.", "head.last_layer.bn."),
    (r"^last_layer\.3\.", "head.classifier."),
]
_LEAVES = {"weight_g": "g", "weight_v": "v", "running_mean": "mean", "running_var": "var"}


def load_config(name):
    return ModelConfig(**json.loads((FIXTURES / f"{name}.json").read_text()))


def load_figures(name):
    return np.load(FIXTURES / f"{name}.npz")


def load_variables(name, dtype):
    return to_variables(np.load(FIXTURES / f"{name}_weights.npz"), dtype)


def to_variables(arrays, dtype):
    """Arrays by PyTorch name as {"params": ..., "batch_stats": ...}."""
    flat = {}
    for name, value in arrays.items():
        if name.endswith("num_batches_tracked"):
            continue
        path, leaf = _rename(name).rsplit(".", 1)
        leaf = "kernel" if leaf == "weight" and value.ndim > 1 else leaf
        leaf = _LEAVES.get(leaf, "scale" if leaf == "weight" else leaf)
        kind = "batch_stats" if leaf in ("mean", "var") else "params"
        flat[kind, *path.split("."), leaf] = to_ours(leaf, value).astype(dtype)
    return traverse_util.unflatten_dict(flat)


def _rename(name):
    for pattern, ours in _NAMES:
        renamed, hits = re.subn(pattern, ours, name)
        if hits:
            return renamed
    raise KeyError(name)


def to_ours(leaf, value):
    if leaf == "g":
        return value.reshape(-1)
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T


def nhwc(images, dtype):
    return np.asarray(images, dtype).transpose(0, 2, 3, 1)
