"""Checkpoints of DEQ-Transformers, and what their own code computes with them."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np

from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.language.model.create import create_model
from mdeq_jax.language.model.torch_files import import_torch

FIXTURES = Path(__file__).parents[2] / "fixtures/language"
NAMES = ("lm_post", "lm_pre", "deqlm")
# Upstream's switch of pre-LN, and the kind; TorchDEQ's model has no such switch.
KINDS = {False: "post", True: "pre", None: "stacked"}


def load_about(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())


def load_config(name, **changes):
    """The architecture of a fixture by its json, which says how upstream's code made it."""
    about = load_about(name)
    config = ModelConfig(
        kind=KINDS[about.get("pre_lnorm")],
        width=about["d_model"],
        embedding_width=about["d_embed"],
        heads=about["n_head"],
        inner_width=about["d_inner"],
        memory=about["mem_len"],
        local=about["local_size"],
        cutoffs=tuple(about["cutoffs"]),
        div_val=about["div_val"],
    )
    return dataclasses.replace(config, **changes)


@functools.cache
def load(name, **changes):
    """The model of a fixture, its variables, and upstream's arrays in our layouts; float64."""
    config = load_config(name, **changes)
    model = create_model(config, load_about(name)["n_token"])
    variables = import_torch(FIXTURES / f"{name}.pth", config)
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = {
            key: array if array.dtype.kind != "f" else np.float64(array)
            for key, array in file.items()
        }
    return model, jax.tree.map(np.float64, variables), arrays


def states(name, array):
    """States (B, L, C): upstream's (B, C, L) of locuslab/deq, and injections split by kind."""
    if name != "deqlm":
        return np.swapaxes(array, 1, 2)
    about = load_about(name)
    if array.shape[-1] != 3 * about["d_model"]:
        return array
    heads = array.reshape(*array.shape[:2], about["n_head"], 3, about["d_head"])
    return heads.swapaxes(2, 3).reshape(array.shape)


def memories(name, array):
    """Memories (B, M, C): upstream's (M, B, C) of locuslab/deq, and injections split by kind."""
    return array.swapaxes(0, 1) if name != "deqlm" else states(name, array)


def words(name, array):
    """Words (B, L): upstream's (L, B) of locuslab/deq."""
    return array if name == "deqlm" else array.T
