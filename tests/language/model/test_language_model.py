"""Truths of the language model: causality, memory, relative positions, probabilities, gradients."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdeq_jax as mx
from mdeq_jax.language.model.attention import relative_shift
from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.language.model.create import create_model
from mdeq_jax.language.model.dropout import draw_masks
from mdeq_jax.language.model.language_model import Memory

CONFIG = ModelConfig(width=8, embedding_width=8, heads=2, inner_width=16, memory=6)
MODEL = create_model(CONFIG, 11)
SOLVER = mx.Picard(max_steps=500, tol=1e-13)
DEQ = mx.DEQ(SOLVER, mx.Exact(SOLVER))
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 12))


@functools.cache
def double_variables():
    """Variables in float64, far enough from zero for the past to matter."""
    like = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.asarray(TOKENS))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: 0.5 * rng.standard_normal(x.shape), like)


@jax.jit
def solve(variables, tokens, memory):
    return MODEL.apply(variables, tokens, memory, deq=DEQ)


def empty(length):
    memory = MODEL.init_memory(2, length)
    return Memory(np.float64(memory.z), np.float64(memory.u), memory.filled)


def test_later_words_do_not_change_an_equilibrium(x64):
    changed = TOKENS.copy()
    changed[:, 8] = (changed[:, 8] + 1) % 11
    z, other = (solve(double_variables(), t, empty(0)).z for t in (TOKENS, changed))
    np.testing.assert_allclose(z[:, :8], other[:, :8], atol=1e-10)
    assert (np.abs(z - other)[:, 8:].max(axis=2) > 1e-3).all()


def test_a_memory_is_as_good_as_the_words_themselves(x64):
    joint = solve(double_variables(), TOKENS, empty(0))
    first = solve(double_variables(), TOKENS[:, :6], empty(6))
    second = solve(double_variables(), TOKENS[:, 6:], first.memory)
    np.testing.assert_allclose(first.z, joint.z[:, :6], atol=1e-10)
    np.testing.assert_allclose(second.z, joint.z[:, 6:], atol=1e-10)
    assert second.memory.filled.tolist() == [6, 6]
    forgotten = solve(double_variables(), TOKENS[:, 6:], empty(6)).z
    assert np.abs(forgotten - second.z).max() > 1e-2


def test_positions_that_are_not_filled_do_not_matter(x64):
    memory = solve(double_variables(), TOKENS[:, :6], empty(6)).memory
    partly = memory._replace(filled=jnp.array([2, 6], jnp.int32))
    rubbish = jnp.where(jnp.arange(6) < 4, 100.0, 0.0)[:, None]
    noisy = partly._replace(z=partly.z.at[0].add(rubbish), u=partly.u.at[0].add(rubbish))
    z, other = (solve(double_variables(), TOKENS[:, 6:], m).z for m in (partly, noisy))
    np.testing.assert_array_equal(z, other)


def test_gradients_are_those_of_finite_differences(x64):
    memory = solve(double_variables(), TOKENS[:, :6], empty(6)).memory
    tokens, targets = TOKENS[:, 6:], np.roll(TOKENS[:, 6:], -1)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), double_variables())

    @jax.jit
    @jax.value_and_grad
    def loss(variables, memory):
        out = MODEL.apply(variables, tokens, memory, deq=DEQ)
        return MODEL.nll(variables, out.z, targets).mean()

    def moved(step, carried):
        point = jax.tree.map(lambda x, d: x + step * d, double_variables(), direction)
        return loss(point, carried)[0]

    for carried in (memory, memory._replace(filled=jnp.zeros(2, jnp.int32))):
        _, gradient = loss(double_variables(), carried)
        along = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))
        slope = (moved(1e-5, carried) - moved(-1e-5, carried)) / 2e-5
        np.testing.assert_allclose(along, slope, rtol=1e-6)


def test_relative_shift():
    # Without and with a memory.
    for length, keys in ((4, 4), (3, 7)):
        x = np.random.default_rng(0).standard_normal((2, 3, length, keys))
        shifted = relative_shift(jnp.asarray(x))
        for i in range(length):
            for j in range(keys - length + i + 1):
                # The distance from j to query i, in a row that begins with the largest one.
                distance = keys - length + i - j
                np.testing.assert_array_equal(
                    shifted[..., i, j], np.float32(x[..., i, keys - 1 - distance])
                )


def random_words(model):
    """A vocabulary's parameters, normal; float32."""
    like = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]["vocabulary"]
    rng = np.random.default_rng(3)
    draw = lambda x: 0.3 * rng.standard_normal(x.shape, np.float32)  # noqa: E731
    return {"params": {"vocabulary": jax.tree.map(draw, like)}}


@pytest.mark.parametrize(
    "changes", [{"embedding_width": 6, "cutoffs": (4, 7)}, {"cutoffs": (4, 7), "div_val": 2}]
)
def test_probabilities(changes):
    model = create_model(dataclasses.replace(CONFIG, **changes), 11)
    variables = random_words(model)
    # More positions than are taken at once.
    z = np.random.default_rng(4).standard_normal((2, 300, 8), np.float32)
    targets = np.arange(600).reshape(2, 300) % 11

    @jax.jit
    def compute(variables):
        log_p = lambda v: model.log_probabilities(v, z)  # noqa: E731
        picked = lambda v: -jnp.take_along_axis(log_p(v), targets[..., None], axis=-1)[..., 0]  # noqa: E731
        nll = lambda v: model.nll(v, z, targets)  # noqa: E731
        compared = (nll, picked) if "div_val" in changes else ()
        slopes = [jax.grad(lambda v, of=of: of(v).mean())(variables) for of in compared]
        return log_p(variables), nll(variables), picked(variables), slopes

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    log_p, nll, picked, slopes = compute(variables)
    close(np.exp(log_p).sum(axis=-1), 1)
    close(nll, picked)
    if slopes:
        jax.tree.map(close, *slopes)
    if "div_val" not in changes:
        # Given its cluster, a word has the probability of the full softmax.
        words = variables["params"]["vocabulary"]
        for start, stop in [(0, 4), (4, 7), (7, 11)]:
            projection = words["input_projection_0" if start else "output_projection_0"]
            full = z @ projection.T @ words["table_0"].T + words["bias_0"]
            part = [x[..., start:stop] for x in (log_p, full)]
            close(*(x - jax.nn.logsumexp(x, axis=-1, keepdims=True) for x in part))


@pytest.mark.parametrize(("kind", "deviation"), [("post", (3 * 8) ** -0.5), ("stacked", 0.01)])
def test_initial_values(kind, deviation):
    config = dataclasses.replace(CONFIG, kind=kind, inner_width=4000, layers=1)
    model = create_model(config, 4000)

    @jax.jit
    def initial(key):
        params = model.init(key, jnp.zeros((1, 1), int))["params"]
        return params["cell"]["layers_0"]["inner"], params["vocabulary"]["table_0"]

    inner, table = initial(jax.random.key(0))
    # PyTorch's default, uniform in ±1/√8, where locuslab/deq's own values have no effect.
    np.testing.assert_allclose(inner["v"].std(), deviation, rtol=0.03)
    np.testing.assert_allclose(inner["g"], np.sqrt(np.square(inner["v"]).sum(axis=0)), rtol=1e-5)
    assert not inner["bias"].any()
    np.testing.assert_allclose(table.std(), 0.01, rtol=0.03)


def test_dropout_masks():
    config = dataclasses.replace(CONFIG, dropout=0.2, attention_dropout=0.5, inner_width=4000)
    keys = jax.random.split(jax.random.key(0), 3)
    masks, reversed_masks = (draw_masks(config, k, 40, 20) for k in (keys, keys[::-1]))
    # A sample's masks do not depend on the rest of its batch.
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[::-1], b), masks, reversed_masks)
    layer = masks.layers[0]
    for mask, rate in ((layer.inner, 0.2), (layer.weights, 0.5)):
        assert set(np.unique(mask)) == {0, np.float32(1 / (1 - rate))}
        np.testing.assert_allclose((mask == 0).mean(), rate, atol=0.02)
    assert layer.weights.shape == (3, 2, 40, 60)
    assert (layer.attended != masks.words).any()
    assert draw_masks(dataclasses.replace(config, dropout=0.0), keys, 4, 2).words is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "deep"}, "ModelConfig.kind is 'deep'; it must be 'post' or 'pre' or 'stacked'."),
        ({"width": 9}, "ModelConfig.width is 9; it must be even"),
        ({"heads": 3}, "ModelConfig.heads is 3; it must be a divisor of width 8."),
        ({"cutoffs": (4, 4)}, "ModelConfig.cutoffs is (4, 4); it must be a tuple of rising"),
        ({"cutoffs": (4, 7, 9), "div_val": 3}, "ModelConfig.div_val is 3; it must be small"),
        ({"dropout": 1.0}, "ModelConfig.dropout is 1.0; it must be a number in [0, 1)."),
        ({"cutoffs": (4, 11)}, "vocabulary is 11; it must be a whole number at least 12."),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        create_model(dataclasses.replace(CONFIG, **changes), 11)


def test_inputs_that_do_not_fit():
    variables = double_variables()
    apply = functools.partial(MODEL.apply, variables, deq=DEQ)
    with pytest.raises(ValueError, match=r"tokens are float64\[2, 12\]; give integers"):
        apply(np.float64(TOKENS))
    with pytest.raises(ValueError, match=r"memory has arrays of the shapes .* init_memory"):
        apply(TOKENS, MODEL.init_memory(3))
    with pytest.raises(ValueError, match=r"z0 has the shape \(2, 8\); it must be \(2, 12, 8\)"):
        apply(TOKENS, z0=np.zeros((2, 8)))
    dropping = create_model(dataclasses.replace(CONFIG, dropout=0.1), 11)
    with pytest.raises(ValueError, match="key is None; dropout in training needs one"):
        dropping.apply(variables, TOKENS, deq=DEQ, train=True)


def test_bfloat16():
    like = np.zeros((2, 6), np.int32)
    rounded = create_model(CONFIG, 11, "bfloat16")
    # One step, after which rounding has not been amplified.
    deq = mx.DEQ(mx.Picard(max_steps=1))

    @jax.jit
    def compute(variables):
        outs = [m.apply(variables, like, m.init_memory(2), deq=deq) for m in (MODEL, rounded)]
        return [
            (out.z, out.memory.u, m.nll(variables, out.z, like))
            for m, out in zip((MODEL, rounded), outs, strict=True)
        ]

    variables = jax.tree.map(np.float32, double_variables())
    for exact, found in zip(*compute(variables), strict=True):
        assert found.dtype == np.float32
        assert 0 < np.abs(exact - found).max() < 0.05 * np.abs(exact).max()


@pytest.mark.slow
def test_recomputation_changes_no_gradient(x64):
    deq = mx.DEQ(adjoint=mx.Unrolled(2))

    def gradient(remat):
        model = create_model(dataclasses.replace(CONFIG, remat=remat), 11)
        loss = lambda v: jnp.square(model.apply(v, TOKENS, deq=deq).z).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(double_variables())

    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    jax.tree.map(close, gradient(True), gradient(False))
