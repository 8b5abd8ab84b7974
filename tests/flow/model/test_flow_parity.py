"""The model against DEQ-Flow's own code, through an imported checkpoint, in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deq_flow import FIXTURES, NAMES, load_arrays, load_config, pixels, to_grid
from flax import traverse_util
from jax import lax

from mdeq_jax.flow.model.correlation import lookup
from mdeq_jax.flow.model.create import create_model, merge_weight_norm
from mdeq_jax.flow.model.torch_files import LAYERS, import_with_report
from mdeq_jax.torch_files.fitting import wanted_arrays
from mdeq_jax.torch_files.names import from_torch

STEPS = 12


def assert_close(ours, theirs, bound=1e-6):
    assert ours.dtype == np.float64
    assert np.shape(ours) == np.shape(theirs)
    assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


@pytest.fixture
def case(request, x64):
    """The model, its variables, upstream's arrays, and both images."""
    model, arrays = create_model(load_config(request.param)), load_arrays(request.param)
    variables = import_with_report(FIXTURES / f"{request.param}.pth", model.config).variables
    images = [to_grid(arrays[name]) for name in ("image1", "image2")]
    return model, jax.tree.map(np.float64, variables), arrays, images


each_case = pytest.mark.parametrize("case", NAMES, indirect=True)


def iterate(model, z, x, steps):
    """The states after each of some applications, stacked."""

    def step(z, _):
        z = model.cell(z, x)
        return z, z

    return lax.scan(step, z, length=steps)[1]


@each_case
def test_encoders_correlation_and_attention(case):
    model, variables, arrays, images = case
    bound = model.bind(merge_weight_norm(variables))
    features = jax.jit(lambda images: bound.feature_encoder(2 * images / 255 - 1, False))
    for image, name in zip(images, ("fmap1", "fmap2"), strict=True):
        assert_close(features(image), to_grid(arrays[name]))
    x = jax.jit(bound.inject)(*images)
    assert_close(x.context, to_grid(arrays["inp"]))
    rows = arrays["corr_rows"].astype(int)
    assert len(x.pyramid) == len(arrays["corr_shapes"])
    for i, level in enumerate(x.pyramid):
        flat = level.reshape(-1, 1, *level.shape[3:])
        assert flat.shape == tuple(arrays["corr_shapes"][i])
        assert_close(flat[rows], arrays[f"corr_level{i}"])
    height, width = x.context.shape[1:3]
    flow = to_grid(arrays["lookup_coords"]) - pixels(height, width)
    windows = jax.jit(lookup, static_argnums=2)(x.pyramid, flow, model.config.radius)
    assert_close(windows[:, ::3, ::3], to_grid(arrays["lookup"]))
    if model.config.attention:
        assert_close(x.attention[:, None, ::17], arrays["attn_rows"])


@each_case
def test_batch_norm_in_training(case):
    model, variables, arrays, images = case
    inject = functools.partial(model.apply, method="inject", train=True, mutable=["batch_stats"])
    x, updates = jax.jit(inject)(merge_weight_norm(variables), *images)
    assert_close(x.context, to_grid(arrays["inp_bn_train"]))
    new, old = (v["batch_stats"]["context_encoder"] for v in (updates, variables))
    batch, height, width, _ = images[0].shape
    for name, keys, shrunk in [
        ("norm1", ("conv1", "norm"), 2),
        ("layer2.0.norm3", ("layer2_0", "shortcut", "norm"), 4),
    ]:
        ours, before = (functools.reduce(lambda tree, key: tree[key], keys, s) for s in (new, old))
        theirs = f"bn_train/{name}.running_var"
        # PyTorch's running variance is unbiased, Flax's is not.
        count = batch * height * width / shrunk**2
        unbiased = 0.9 * before["var"] + (ours["var"] - 0.9 * before["var"]) * count / (count - 1)
        assert_close(unbiased, arrays[theirs])
        if name == "norm1":
            assert_close(ours["mean"], arrays["bn_train/norm1.running_mean"])


@each_case
def test_one_application(case):
    model, variables, arrays, images = case
    hidden, coords = (to_grid(arrays[name]) for name in ("cell_h", "cell_coords"))
    grid = pixels(*hidden.shape[1:3])

    @jax.jit
    def apply(variables):
        bound = model.bind(merge_weight_norm(variables))
        x = bound.inject(*images)
        flow = coords - grid
        windows = lookup(x.pyramid, flow, model.config.radius)
        _, inner = bound.update.apply(
            {"params": bound.variables["params"]["update"]},
            *(hidden, x.context, windows, flow, x.attention),
            capture_intermediates=True,
        )
        return windows, inner["intermediates"], bound.cell({"hidden": hidden, "flow": flow}, x)

    windows, inner, z = apply(variables)
    assert_close(windows[:, ::4, ::5], to_grid(arrays["cell_corr"]))
    assert_close(inner["motion"]["__call__"][0], to_grid(arrays["cell_motion"]))
    if model.config.attention:
        assert_close(inner["aggregate"]["__call__"][0], to_grid(arrays["cell_motion_global"]))
    assert_close(z["hidden"], to_grid(arrays["cell_h_out"]))
    assert_close(z["flow"] + grid, to_grid(arrays["cell_coords_out"]))


@each_case
def test_iterations_and_upsampling(case):
    model, variables, arrays, images = case

    @jax.jit
    def run(variables):
        bound = model.bind(merge_weight_norm(variables))
        x = bound.inject(*images)
        states = iterate(bound, bound.start(x), x, STEPS)
        last = jax.tree.map(lambda leaf: leaf[-1], states)
        return states, bound.upsample(last), bound.mask(last["hidden"])

    states, flow, mask = run(variables)
    norms = {
        name: jnp.linalg.norm(leaf.reshape(*leaf.shape[:2], -1), axis=-1)
        for name, leaf in states.items()
    }
    assert_close(norms["hidden"], arrays["trace_h_norm"])
    assert_close(norms["flow"], arrays["trace_flow_norm"])
    assert_close(states["hidden"][-1], to_grid(arrays["h12"]))
    assert_close(states["flow"][-1], to_grid(arrays["flow12"]))
    assert_close(mask[:, ::4, ::4], to_grid(arrays["mask12"]))
    assert_close(flow[:1, :64, :80], to_grid(arrays["flow_up12"]))
    assert_close(flow[:, ::5, ::5], to_grid(arrays["flow_up12_strided"]))


@pytest.mark.parametrize(
    ("name", "steps", "detach"), [("grad1", 1, True), ("grad2", 2, True), ("grad2_all", 2, False)]
)
@each_case
def test_gradients(case, name, steps, detach):
    model, variables, arrays, images = case
    model = create_model(dataclasses.replace(model.config, detach_flow=detach))
    weights = to_grid(arrays["cot"])
    z = {"hidden": to_grid(arrays["h12"]), "flow": to_grid(arrays["flow12"])}

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        bound = model.bind(merge_weight_norm(variables | {"params": params}))
        states = iterate(bound, z, bound.inject(*images), steps)
        return (bound.upsample(jax.tree.map(lambda leaf: leaf[-1], states)) * weights).mean()

    value, gradient = loss(variables["params"])
    assert_close(value, arrays[f"{name}_value"], 1e-4)
    ours = traverse_util.flatten_dict({"params": gradient})
    assert_close(jnp.sqrt(sum((leaf**2).sum() for leaf in ours.values())), arrays[f"{name}_norm"])
    paths = {torch: wanted.path for torch, wanted in wanted_arrays(ours, LAYERS).items()}
    theirs = {k.removeprefix(f"{name}/"): a for k, a in arrays.items() if f"{name}/" in k}
    assert len(theirs) >= 6
    for torch, array in theirs.items():
        assert_close(ours[paths[torch]], from_torch(paths[torch], array))
