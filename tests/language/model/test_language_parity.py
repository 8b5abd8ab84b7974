"""The model against locuslab/deq and TorchDEQ, through imported checkpoints, in float64."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deq_transformer import NAMES, load, load_about, memories, states, words
from flax import traverse_util
from jax import lax

import mdeq_jax as mx
from mdeq_jax.language.model.attention import position_vectors, visible_positions
from mdeq_jax.language.model.cell import CellArgs, cell_function
from mdeq_jax.language.model.dropout import Masks
from mdeq_jax.language.model.language_model import Memory
from mdeq_jax.language.model.torch_layout import canonical_name, converted, wanted_arrays
from mdeq_jax.layers import weight_norm

PICARD = mx.Picard(max_steps=300, tol=1e-14)
EXACT = mx.DEQ(PICARD, mx.Exact(PICARD))
# The cells of locuslab/deq differ in their norms only, and three segments include one application.
POST_QUICKLY = ["lm_post", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]


def twelve_applications(f, z0, args):
    """Upstream's evaluation: TorchDEQ's random weights have no equilibrium."""
    z, _ = lax.scan(lambda z, _: (f(z, args), None), z0, length=12)
    return SimpleNamespace(z=z)


def layer(name):
    return twelve_applications if name == "deqlm" else EXACT


def assert_close(ours, theirs):
    assert ours.dtype == np.float64
    assert np.shape(ours) == np.shape(theirs)
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize("name", NAMES[1:])
def test_words_injection_and_one_application(x64, name):
    model, variables, arrays = load(name)
    local = load_about(name)["local_size_variant"]
    cells = [cell_function(load(name, **change)[0].config) for change in ({}, {"local": local})]
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
        context = network.context(tokens, memory, Masks())
        without = context._replace(filled=jnp.zeros(3, int))
        applied = [cell(z, CellArgs(params["cell"], context)) for cell in cells]
        applied.append(cells[0](z, CellArgs(params["cell"], without)))
        return network.vocabulary.embed(tokens), context.u, *applied

    found = compute(variables, memory, states(name, arrays["cell_z"]))
    assert_close(found[0], arrays["embedding"])
    names = ("injection", "cell_out_mem", "cell_out_mem_local", "cell_out_nomem")
    for ours, theirs in zip(found[1:], names, strict=True):
        assert_close(ours, states(name, arrays[theirs]))


def three_segments(name, **changes):
    """Memories and nll of three segments, the memory carried from one to the next."""
    model, variables, arrays = load(name, **changes)

    @jax.jit
    def segment(tokens, targets, memory):
        out = model.apply(variables, tokens, memory, deq=layer(name))
        return out.memory, model.nll(variables, out.z, targets)

    empty = model.init_memory(3)
    memory = Memory(np.float64(empty.z), np.float64(empty.u), empty.filled)
    for tokens, targets in zip(arrays["data"], arrays["target"], strict=True):
        memory, nll = segment(words(name, tokens), words(name, targets), memory)
        yield memory, nll


@pytest.mark.parametrize("name", POST_QUICKLY)
def test_three_segments_with_a_carried_memory(x64, name):
    arrays, prefix = load(name)[2], "plain_" if name == "deqlm" else ""
    for i, (memory, nll) in enumerate(three_segments(name)):
        # Upstream's memory grows to its length; here its first positions are empty.
        assert memory.filled.tolist() == [[10, 12, 12][i]] * 3
        z, u = (x[:, -memory.filled[0] :] for x in memory[:2])
        assert_close(z, memories(name, arrays[f"{prefix}seg{i}_z_hist"]))
        assert_close(u, memories(name, arrays[f"{prefix}seg{i}_u_hist"]))
        assert_close(nll.mean(), arrays[f"{prefix}seg{i}_loss"])
        if name != "deqlm":
            assert_close(nll, words(name, arrays[f"seg{i}_nll"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:2])
def test_three_segments_with_a_local_mask(x64, name):
    arrays = load(name)[2]
    found = three_segments(name, local=load_about(name)["local_size_variant"])
    for i, (memory, nll) in enumerate(found):
        z = memory.z[:, -memory.filled[0] :]
        assert_close(z, memories(name, arrays[f"seg{i}_z_hist_local"]))
        assert_close(nll.mean(), arrays[f"seg{i}_loss_local"])


def test_positions_masks_and_probabilities(x64):
    name = "lm_post"
    model, variables, arrays = load(name)
    for key, local in (("mask", 0), ("mask_local", load_about(name)["local_size_variant"])):
        visible = visible_positions(jnp.array([12]), 10, 22, local)
        np.testing.assert_array_equal(~visible[0, 0], arrays[key])
    for key, count in (("pos_emb_mem", 22), ("pos_emb_nomem", 10)):
        assert_close(position_vectors(count, model.config.width).T, arrays[key][0])
    z, targets = arrays["crit_hidden"], arrays["crit_target"]

    @jax.jit
    def compute(variables):
        return model.nll(variables, z, targets), model.log_probabilities(variables, z[:2])

    nll, log_p = compute(variables)
    assert_close(nll, arrays["crit_nll"])
    assert_close(log_p, arrays["crit_logprob"])
    np.testing.assert_allclose(jnp.exp(log_p).sum(axis=-1), 1, rtol=1e-12)


@pytest.mark.slow  # the values agree, and gradients are those of finite differences
@pytest.mark.parametrize("name", NAMES)
def test_gradients(x64, name):
    model, variables, arrays = load(name)
    tokens, targets = (words(name, arrays[key][0]) for key in ("data", "target"))

    @jax.jit
    @jax.value_and_grad
    def loss(variables):
        z = model.apply(variables, tokens, deq=layer(name)).z
        return model.nll(variables, z, targets).mean()

    value, gradient = loss(variables)
    assert_close(value, arrays["grad_loss"])
    theirs = {
        canonical_name(key.removeprefix("grad/")): array
        for key, array in arrays.items()
        if key.startswith("grad/")
    }
    # Upstream has two gradients for a projection that is shared, and their sum is ours.
    for key in [key for key in theirs if re.match(r"crit\.out_projs\.[1-9]", key)]:
        theirs[key.replace("crit.out", "word_emb.emb")] += theirs.pop(key)
    wanted = wanted_arrays(model.config, model.vocabulary)
    ours = traverse_util.flatten_dict(gradient)
    assert len(theirs) >= 7
    for key, array in theirs.items():
        path, shape = wanted[key]
        assert_close(ours[path], converted(model.config, path, array.reshape(shape)))
