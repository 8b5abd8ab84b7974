"""Names and layouts of a DEQ-Transformer's arrays in PyTorch files, and in ours."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.language.model.create import create_model
from mdeq_jax.torch_files.fitting import Wanted
from mdeq_jax.torch_files.importing import Path
from mdeq_jax.torch_files.names import from_torch, plain_name, torch_name, torch_shape

# Layers of TorchDEQ's files. {i} is a number; locuslab/deq has one layer, without a number.
# PyTorch                       ours
_LAYERS = """
func.dec_attn.{i}               cell/layers_{i}/attention
func.dec_attn.{i}.qkv_net       cell/layers_{i}/attention/qkv
func.dec_attn.{i}.r_net         cell/layers_{i}/attention/position
func.dec_attn.{i}.o_net         cell/layers_{i}/attention/output
func.dec_attn.{i}.ln1           cell/layers_{i}/norm_attention
func.dec_attn.{i}.ln2           cell/layers_{i}/attention/norm
func.pos_ff.{i}.ff1_net         cell/layers_{i}/inner
func.pos_ff.{i}.ff2_net         cell/layers_{i}/outer
func.pos_ff.{i}.ln              cell/layers_{i}/norm_network
injection                       injection
"""
# Arrays that are not named after a layer and its kind of weight.
_LEAVES = {
    r"content_bias": "r_w_bias",
    r"position_bias": "r_r_bias",
    r"table_(\d+)": r"word_emb.emb_layers.\1.weight",
    r"bias_(\d+)": r"crit.out_layers.\1.bias",
    r"cluster_table": "crit.cluster_weight",
    r"cluster_bias": "crit.cluster_bias",
    r"input_projection_(\d+)": r"word_emb.emb_projs.\1.weight",
    r"output_projection_(\d+)": r"crit.out_projs.\1.weight",
}


def canonical_name(name: str) -> str:
    """Return TorchDEQ's name of an array, with the number 0 for the only layer of locuslab/deq.

    Args:
      name: a name in a file.
    """
    name = re.sub(r"^inject_conv\.", "injection.", plain_name(name))
    return re.sub(r"^(func\.(?:dec_attn|pos_ff))\.(?=[a-z])", r"\1.0.", name)


@functools.cache
def wanted_arrays(config: ModelConfig, vocabulary: int) -> Mapping[str, Wanted]:
    """Return the arrays that the model needs, by TorchDEQ's names.

    Args:
      config: the architecture.
      vocabulary: number of words.
    """
    shapes = jax.eval_shape(lambda: initial_arrays(config, vocabulary))
    return {
        _torch_name(path): Wanted(
            path, torch_shape(path, leaf.shape) if _is_map(path) else leaf.shape
        )
        for path, leaf in shapes.items()
    }


def initial_arrays(config: ModelConfig, vocabulary: int) -> Mapping[Path, Any]:
    """Return the model's initial variables by path.

    Args:
      config: the architecture.
      vocabulary: number of words.
    """
    model, tokens = create_model(config, vocabulary), jnp.zeros((1, 1), jnp.int32)
    return traverse_util.flatten_dict(model.init(jax.random.key(0), tokens))


def _torch_name(path: Path) -> str:
    *layer, leaf = path[1:]
    for ours, theirs in _LEAVES.items():
        if match := re.fullmatch(ours, leaf):
            leaf = match.expand(theirs)
    return leaf if layer == ["vocabulary"] else torch_name((*layer, leaf), _LAYERS)


def _is_map(path: Path) -> bool:
    """Return whether an array belongs to a linear map, whose layout PyTorch has transposed."""
    return path[-1] in ("kernel", "g", "v") or "projection_" in path[-1]


def converted(config: ModelConfig, path: Path, array: np.ndarray) -> np.ndarray:
    """Return an array of a file in our layout.

    Args:
      config: the architecture.
      path: our path, from the collection on.
      array: the array, of the shape in `wanted_arrays`.
    """
    if config.kind == "stacked" and path[-2] in ("qkv", "injection"):
        # TorchDEQ has query, key and value of each head side by side.
        array = array.reshape(config.heads, 3, -1).swapaxes(0, 1).reshape(array.shape)
    return from_torch(path, array) if _is_map(path) else array
