"""The originals' weights, figures and gradients, as ours."""

import json
from pathlib import Path

import jax
import numpy as np

from mdeq_jax.torch_files.names import from_torch, torch_name
from mdeq_jax.vision.model import ModelConfig
from mdeq_jax.vision.torch_files.convert import import_torch
from mdeq_jax.vision.torch_files.keys import layer_table

FIXTURES = Path(__file__).parents[2] / "fixtures"


def load_config(name):
    return ModelConfig(**json.loads((FIXTURES / f"{name}.json").read_text()))


def load_figures(name):
    return np.load(FIXTURES / f"{name}.npz")


def load_variables(name, dtype):
    variables = import_torch(FIXTURES / f"{name}.pkl", load_config(name))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), variables)


def to_params(arrays, params):
    """Arrays by PyTorch name in the structure of a model's parameters."""
    table = layer_table("segmentation" if "last_layer.0.weight" in arrays else "classification")

    def find(path, _):
        keys = [part.key for part in path]
        return from_torch(keys, arrays[torch_name(keys, table)])

    return jax.tree_util.tree_map_with_path(find, params)


def nhwc(images, dtype):
    return np.asarray(images, dtype).transpose(0, 2, 3, 1)
