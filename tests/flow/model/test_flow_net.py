"""The module: parameters, shapes, dtypes, gradients that are cut, and images that do not fit."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deq_flow import FIXTURES
from flow_narrow import NARROW

from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.flow.model.create import create_model, init_variables, merge_weight_norm
from mdeq_jax.flow.model.upsampling import convex_upsample

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, size=(2, 2, 16, 24, 3)).astype(np.uint8)
PUBLISHED = json.loads((FIXTURES / "flow_keys.json").read_text())


def shapes(config, dtype=None):
    model = create_model(config, dtype=dtype)
    return model, jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))


def make(config, dtype=None):
    """A model, and plain variables drawn without compilation."""
    model, like = shapes(config, dtype)

    def draw(path, leaf):
        about_one = path[-1].key in ("g", "scale", "var")
        scale = 0.1 if about_one or len(leaf.shape) < 4 else np.prod(leaf.shape[:-1]) ** -0.5
        return np.float32(RNG.normal(scale=scale, size=leaf.shape) + about_one)

    return model, merge_weight_norm(jax.tree_util.tree_map_with_path(draw, like))


# test_flow_import has the widths of the others, from the names and shapes of their arrays.
@pytest.mark.parametrize("name", ["huge", "base_gma"])
def test_parameters_of_the_published_models(name):
    config = dataclasses.replace(
        ModelConfig.published(name.split("_")[0]),
        attention="gma" in name,
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(config)[1]["params"]))
    assert count == PUBLISHED[name]["parameters"]


def test_version_1_of_the_huge_model():
    config = dataclasses.replace(ModelConfig.published("huge"), head=256)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(config)[1]["params"]))
    assert count == 12_799_808


@pytest.mark.parametrize(("dtype", "attention"), [(None, False), ("bfloat16", True)])
def test_shapes_and_dtypes(dtype, attention):
    model, variables = make(dataclasses.replace(NARROW, attention=attention), dtype)

    def run(variables, first, second):
        bound = model.bind(variables)
        x = bound.inject(first, second)
        z = bound.cell(bound.start(x), x)
        return x, z, bound.upsample(z)

    program, (x, z, flow) = jax.make_jaxpr(run, return_shape=True)(variables, *IMAGES)
    assert ("bf16" in str(program)) == (dtype == "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves((x, z, flow))} == {jnp.dtype("float32")}
    assert [level.shape for level in x.pyramid] == [(2, 2, 3, 2, 3), (2, 2, 3, 1, 1)]
    assert (z["hidden"].shape, z["flow"].shape) == ((2, 2, 3, 6), (2, 2, 3, 2))
    assert flow.shape == (2, 16, 24, 2)
    assert (x.attention is not None) == attention
    if attention:
        assert x.attention.shape == (2, 6, 6)


@pytest.mark.parametrize("detach", [True, False])
def test_where_the_gradient_of_the_flow_is_cut(detach):
    model, variables = make(dataclasses.replace(NARROW, detach_flow=detach))
    bound = model.bind(variables)
    random = lambda leaf: RNG.normal(size=leaf.shape).astype("f")  # noqa: E731
    x = jax.tree.map(random, jax.eval_shape(bound.inject, *IMAGES))
    z = jax.tree.map(random, jax.eval_shape(bound.start, x))
    loss = lambda z: sum(leaf.sum() for leaf in jax.tree.leaves(bound.cell(z, x)))  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(z)
    assert (jnp.abs(gradient["flow"]).max() == 0) == detach
    assert jnp.abs(gradient["hidden"]).max() > 0


def test_initial_biases_and_kernels():
    model = create_model(ModelConfig.published("tiny"))

    @jax.jit  # only what is returned is computed
    def some():
        params = init_variables(model, jax.random.key(0))["params"]
        block = params["feature_encoder"]["layer3_1"]
        return params["update"]["gru"]["update1"], block["conv2"]["conv"]["kernel"]

    gate, kernel = some()
    bound = (5 * 96) ** -0.5
    for name in ("v", "bias"):
        assert 0.9 * bound < jnp.abs(gate[name]).max() <= bound
    assert kernel.std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_upsampling_of_a_constant_flow(x64):
    flow = np.broadcast_to([1.5, -2.0], (1, 4, 5, 2))
    fine = convex_upsample(flow, RNG.normal(size=(1, 4, 5, 576)))
    inside = fine[0, 8:-8, 8:-8]
    np.testing.assert_allclose(inside, np.broadcast_to([12, -16], inside.shape), rtol=1e-12)
    assert (np.abs(fine) <= np.abs([12, -16]) + 1e-9).all()


def test_upsampling_picks_the_neighbour_with_all_the_weight(x64):
    flow = RNG.normal(size=(1, 4, 5, 2))
    for k, (row, column) in enumerate(np.ndindex(3, 3)):
        mask = np.zeros((1, 4, 5, 9, 64))
        mask[..., k, :] = 1e3
        fine = convex_upsample(flow, mask.reshape(1, 4, 5, 576))
        neighbour = 8 * flow[0, row : row + 2, column : column + 3]
        expected = np.repeat(np.repeat(neighbour, 8, 0), 8, 1)
        np.testing.assert_allclose(fine[0, 8:24, 8:32], expected, rtol=1e-12)


def test_upsampling_places_rows_and_columns(x64):
    flow = np.ones((1, 1, 1, 2))
    logits = np.full((9, 8, 8), -1e3)
    logits[0], logits[4, 2, 5] = 0, 1e3  # the centre for one fine pixel, else a zero outside
    fine = convex_upsample(flow, logits.reshape(1, 1, 1, 576))[0, ..., 0]
    assert fine[2, 5] == 8
    assert np.abs(fine).sum() == 8


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((1, 16, 20, 3), (1, 16, 20, 3), "the images are 16×20; both sides must be multiples of 8"),
        ((1, 8, 16, 3), (1, 8, 16, 3), "multiples of 8 and at least 16"),
        ((1, 16, 16, 3), (1, 16, 24, 3), "the shapes (1, 16, 16, 3) and (1, 16, 24, 3)"),
        ((16, 16, 3), (16, 16, 3), "both must be (B, H, W, 3)"),
    ],
)
def test_images_that_do_not_fit(first, second, message):
    model, variables = shapes(NARROW)
    first, second = (jax.ShapeDtypeStruct(shape, jnp.uint8) for shape in (first, second))
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(lambda *a: model.apply(*a, method="inject"), variables, first, second)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("encoder", (8, 8), "ModelConfig.encoder is (8, 8); it must be a tuple of 3 whole"),
        ("flow", [8, 8], "ModelConfig.flow is [8, 8]; it must be a tuple of 2 whole numbers"),
        ("motion", 2, "ModelConfig.motion is 2; it must be a whole number of at least 3"),
        ("radius", 0, "ModelConfig.radius is 0; it must be a whole number of at least 1"),
        ("attention", 1, "ModelConfig.attention is 1; it must be True or False"),
    ],
)
def test_configs_that_do_not_fit(field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(NARROW, **{field: value})


def test_an_unknown_published_model():
    with pytest.raises(ValueError, match="name is 'small'; it must be one of 'tiny', 'base'"):
        ModelConfig.published("small")
