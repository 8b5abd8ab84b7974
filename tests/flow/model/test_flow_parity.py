"""The model against DEQ-Flow's own code, through an imported checkpoint, in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deq_flow import FIXTURES, load_arrays, load_config, pixels, to_grid
from flax import linen as nn
from flax import traverse_util
from jax import lax

from mdeq_jax.flow.model.correlation import lookup
from mdeq_jax.flow.model.create import create_model, merge_weight_norm
from mdeq_jax.flow.model.torch_files import LAYERS, import_with_report
from mdeq_jax.torch_files.fitting import wanted_arrays
from mdeq_jax.torch_files.names import from_torch

STEPS = 12
# Upstream's gradients: the number of applications, and whether the flow is cut at their entry.
GRADIENTS = {"grad1": (1, True), "grad2": (2, True), "grad2_all": (2, False)}
# The training step of test_flow_experiment has attention.
FIXTURE_NAMES = ("flow", pytest.param("flow_gma", marks=pytest.mark.slow))


def assert_close(ours, theirs):
    assert ours.dtype == np.float64
    assert np.shape(ours) == np.shape(theirs)
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


@functools.cache
def load(name):
    """The model of a fixture, its variables, upstream's arrays, and both images."""
    model, arrays = create_model(load_config(name)), load_arrays(name)
    variables = import_with_report(FIXTURES / f"{name}.pth", model.config).variables
    images = [to_grid(arrays[image]) for image in ("image1", "image2")]
    return model, jax.tree.map(np.float64, variables), arrays, images


def inject(name, params):
    """The injection, and the features of both images."""
    model, variables, _, images = load(name)
    x, captured = model.apply(
        variables | {"params": params},
        *images,
        method="inject",
        capture_intermediates=lambda module, _: module.name == "feature_encoder",
        mutable=["intermediates"],
    )
    return x, captured["intermediates"]["feature_encoder"]["__call__"][0]


@functools.cache
def injection(name):
    params = merge_weight_norm(load(name)[1])["params"]
    return jax.jit(functools.partial(inject, name))(params)


@functools.cache
def linearised_injection(name):
    """The injection, and its pullback to parameters."""
    params, of_params = merge_weight_norm(load(name)[1])["params"], functools.partial(inject, name)
    x, pullback, _ = jax.jit(lambda p: jax.vjp(of_params, p, has_aux=True))(params)
    return x, jax.jit(pullback)


def iterate(model, z, x, steps):
    """The states after each of some applications, stacked."""

    def step(z, _):
        z = model.cell(z, x)
        return z, z

    return lax.scan(step, z, length=steps)[1]


def last(states):
    return jax.tree.map(lambda leaf: leaf[-1], states)


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_what_is_computed_once(x64, name):
    model, _, arrays, _ = load(name)
    x, features = injection(name)
    for ours, theirs in zip(jnp.split(features, 2), ("fmap1", "fmap2"), strict=True):
        assert_close(ours, to_grid(arrays[theirs]))
    assert_close(x.context, to_grid(arrays["inp"]))
    rows = arrays["corr_rows"].astype(int)
    assert len(x.pyramid) == len(arrays["corr_shapes"])
    for i, level in enumerate(x.pyramid):
        flat = level.reshape(-1, 1, *level.shape[3:])
        assert flat.shape == tuple(arrays["corr_shapes"][i])
        assert_close(flat[rows], arrays[f"corr_level{i}"])
    if model.config.attention:
        assert_close(x.attention[:, None, ::17], arrays["attn_rows"])


def test_batch_norm_in_training(x64):
    model, variables, arrays, (image, _) = load("flow")
    encode = lambda model, image: nn.relu(model.context_encoder(2 * image / 255 - 1, True))  # noqa: E731
    apply = functools.partial(model.apply, method=encode, mutable=["batch_stats"])
    context, updates = jax.jit(apply)(merge_weight_norm(variables), image)
    assert_close(context, to_grid(arrays["inp_bn_train"]))
    new, old = (v["batch_stats"]["context_encoder"] for v in (updates, variables))
    assert_close(new["conv1"]["norm"]["mean"], arrays["bn_train/norm1.running_mean"])
    for ours, before, theirs, stride in [
        (new["conv1"], old["conv1"], "norm1", 2),
        (new["layer2_0"]["shortcut"], old["layer2_0"]["shortcut"], "layer2.0.norm3", 4),
    ]:
        # PyTorch's running variance is unbiased, Flax's is not.
        count = image[..., 0].size / stride**2
        kept = 0.9 * before["norm"]["var"]
        unbiased = kept + (ours["norm"]["var"] - kept) * count / (count - 1)
        assert_close(unbiased, arrays[f"bn_train/{theirs}.running_var"])


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_lookup_cell_iterations_and_upsampling(x64, name):
    model, variables, arrays, _ = load(name)
    x, _ = injection(name)
    grid = pixels(*x.context.shape[1:3])
    is_motion = lambda module, _: module.name in ("motion", "aggregate")  # noqa: E731

    @jax.jit
    def compute(params, x):
        bound = model.bind({"params": params})
        flow = to_grid(arrays["cell_coords"]) - grid
        z, captured = model.apply(
            {"params": params},
            *({"hidden": to_grid(arrays["cell_h"]), "flow": flow}, x),
            method="cell",
            capture_intermediates=is_motion,
            mutable=["intermediates"],
        )
        states = iterate(bound, bound.start(x), x, STEPS)
        places = [to_grid(arrays[key]) for key in ("lookup_coords", "cell_coords")]
        windows = [lookup(x.pyramid, place - grid, model.config.radius) for place in places]
        mask, flow = bound.mask(last(states)["hidden"]), bound.upsample(last(states))
        return windows, captured["intermediates"]["update"], z, states, mask, flow

    params = merge_weight_norm(variables)["params"]
    (anywhere, windows), captured, z, states, mask, flow = compute(params, x)
    assert_close(anywhere[:, ::3, ::3], to_grid(arrays["lookup"]))
    assert_close(windows[:, ::4, ::5], to_grid(arrays["cell_corr"]))
    assert_close(captured["motion"]["__call__"][0], to_grid(arrays["cell_motion"]))
    if model.config.attention:
        aggregated = captured["aggregate"]["__call__"][0]
        assert_close(aggregated, to_grid(arrays["cell_motion_global"]))
    assert_close(z["hidden"], to_grid(arrays["cell_h_out"]))
    assert_close(z["flow"] + grid, to_grid(arrays["cell_coords_out"]))
    for leaf, key in (("hidden", "trace_h_norm"), ("flow", "trace_flow_norm")):
        assert_close(jnp.sqrt((states[leaf] ** 2).sum(axis=(2, 3, 4))), arrays[key])
    assert_close(states["hidden"][-1], to_grid(arrays["h12"]))
    assert_close(states["flow"][-1], to_grid(arrays["flow12"]))
    assert_close(mask[:, ::4, ::4], to_grid(arrays["mask12"]))
    assert_close(flow[:1, :64, :80], to_grid(arrays["flow_up12"]))
    assert_close(flow[:, ::5, ::5], to_grid(arrays["flow_up12_strided"]))


# The encoders' derivatives take long in float64; test_flow_experiment has those of a training step.
@pytest.mark.slow
@pytest.mark.parametrize("key", GRADIENTS)
def test_gradients(x64, key):
    name = "flow"
    model, variables, arrays, _ = load(name)
    steps, detach = GRADIENTS[key]
    model = create_model(dataclasses.replace(model.config, detach_flow=detach))
    x, pullback = linearised_injection(name)
    cotangent = to_grid(arrays["cot"])
    z = {"hidden": to_grid(arrays["h12"]), "flow": to_grid(arrays["flow12"])}

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(params, x):
        bound = model.bind({"params": params})
        return (bound.upsample(last(iterate(bound, z, x, steps))) * cotangent).mean()

    @jax.jit
    def unmerge(params, gradient):
        return jax.vjp(lambda p: merge_weight_norm({"params": p}), params)[1]({"params": gradient})

    params = variables["params"]
    value, (direct, by_x) = loss(merge_weight_norm(variables)["params"], x)
    (gradient,) = unmerge(params, jax.tree.map(jnp.add, direct, *pullback(by_x)))
    assert_close(value, arrays[f"{key}_value"])
    ours = traverse_util.flatten_dict({"params": gradient})
    assert_close(jnp.sqrt(sum((leaf**2).sum() for leaf in ours.values())), arrays[f"{key}_norm"])
    paths = {torch: wanted.path for torch, wanted in wanted_arrays(ours, LAYERS).items()}
    theirs = {n.removeprefix(f"{key}/"): a for n, a in arrays.items() if n.startswith(f"{key}/")}
    assert len(theirs) >= 6
    for torch, array in theirs.items():
        assert_close(ours[paths[torch]], from_torch(paths[torch], array))
