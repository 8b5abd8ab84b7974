"""The model against locuslab/deq and TorchDEQ, through imported checkpoints, in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deq_transformer import NAMES, load, load_about, memories, states, words
from flax import traverse_util

import mdeq_jax as mx
from mdeq_jax.language.model.attention import position_vectors, visible_positions
from mdeq_jax.language.model.cell import CellArgs, cell_function
from mdeq_jax.language.model.dropout import Masks
from mdeq_jax.language.model.language_model import Memory
from mdeq_jax.layers import weight_norm

PICARD = mx.Picard(max_steps=300, tol=1e-14)
# TorchDEQ's random weights have no equilibrium; its code is evaluated by 12 applications.
LAYERS = {"deqlm": mx.DEQ(PICARD, mx.Unrolled(12))}
EXACT = mx.DEQ(PICARD, mx.Exact(PICARD))


def assert_close(ours, theirs, bound=1e-6):
    assert ours.dtype == np.float64
    assert np.shape(ours) == np.shape(theirs)
    assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


@pytest.mark.parametrize("name", NAMES)
def test_words_injection_and_one_application(x64, name):
    model, variables, arrays = load(name)
    local = load(name, local=load_about(name)["local_size_variant"])[0]
    memory = Memory(
        states(name, arrays["cell_z_hist"]),
        states(name, arrays["cell_u_hist"]),
        np.full(3, model.config.memory),
    )
    tokens = words(name, arrays["data"][0])

    @jax.jit
    def compute(variables, memory, z):
        params = weight_norm.merge(variables["params"])
        network = model._network.bind({"params": params})

        def apply(model, memory):
            context = network.context(tokens, memory, Masks())
            return cell_function(model.config)(z, CellArgs(params["cell"], context)), context.u

        (with_memory, u), (local_memory, _) = apply(model, memory), apply(local, memory)
        without, _ = apply(model, model.init_memory(3, 0))
        return network.vocabulary.embed(tokens), u, with_memory, without, local_memory

    found = compute(variables, memory, states(name, arrays["cell_z"]))
    assert_close(found[0], arrays["embedding"])
    names = ("injection", "cell_out_mem", "cell_out_nomem", "cell_out_mem_local")
    for ours, theirs in zip(found[1:], names, strict=True):
        assert_close(ours, states(name, arrays[theirs]))
