"""Figures of the authors' PyTorch implementation, reproduced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from torch_weights import load_config, load_figures, load_variables, nhwc, to_params

from mdeq_jax.solvers import Anderson, Broyden, solve
from mdeq_jax.stability import jacobian_loss
from mdeq_jax.torch_files.names import from_torch
from mdeq_jax.vision.model import create_model

NAMES = (
    "cls2_noaffine",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("cls3", "seg4")),
)
SOLVER = Broyden(max_steps=80, tol=1e-12)


def states(figures, kind, dtype):
    names = sorted(name for name in figures.files if name.startswith(kind))
    return tuple(nhwc(figures[name], dtype) for name in names)


def setting(name, dtype):
    figures = load_figures(name)
    model, variables = create_model(load_config(name)), load_variables(name, dtype)
    return model, variables, nhwc(figures["image"], dtype), figures


def in_float64(name):
    model, variables, images, figures = setting(name, np.float64)

    def loss(params):
        logits, info = model.apply({**variables, "params": params}, images, solver=SOLVER)
        labels = jnp.expand_dims(figures["labels"], -1)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels, axis=-1)
        return -picked.mean(), (logits, info)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (logits, info)), grads = jax.device_get(run(variables["params"]))
    return figures, value, logits, info, grads


@pytest.fixture(scope="module", params=NAMES)
def solved(request):
    with jax.enable_x64(True):
        return in_float64(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_the_tree_is_that_of_init(name):
    model, variables, images, _ = setting(name, np.float32)
    fresh = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)


@pytest.mark.parametrize("name", NAMES)
def test_injection_and_cell_in_float32(name):
    model, variables, images, figures = setting(name, np.float32)
    f, _, args = model.apply(variables, images, method="problem")
    injection = nhwc(figures["injection"], np.float32)
    np.testing.assert_allclose(args.x, injection, rtol=0, atol=2e-5)
    out = jax.jit(f)(states(figures, "cell_in", np.float32), args._replace(x=injection))
    for ours, theirs in zip(out, states(figures, "cell_out", np.float32), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def test_equilibrium_and_logits(solved):
    figures, _, logits, info, _ = solved
    assert info.solver.converged.all()
    for ours, theirs in zip(info.z, states(figures, "zstar", np.float64), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    theirs = np.moveaxis(figures["logits"], 1, -1)  # classes are the second axis in PyTorch
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-5)


def test_loss(solved):
    figures, value, *_ = solved
    np.testing.assert_allclose(value, figures["loss"], rtol=0, atol=1e-6)


def test_every_gradient(solved):
    figures, *_, grads = solved
    named = {n.removeprefix("grad/"): figures[n] for n in figures.files if n.startswith("grad/")}
    theirs = traverse_util.flatten_dict(to_params(named, grads), sep="/")
    ours = traverse_util.flatten_dict(grads, sep="/")
    assert len(theirs) == len(named)
    errors = {n: np.linalg.norm(ours[n] - g) / np.linalg.norm(g) for n, g in theirs.items()}
    assert {n: e for n, e in errors.items() if not e < 1e-4} == {}
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in ours.values()))
    np.testing.assert_allclose(norm, figures["grad_norm"], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES[:2])
def test_solver_traces(x64, name):
    model, variables, images, figures = setting(name, np.float64)
    f, z0, args = model.apply(variables, images, method="problem")
    run = jax.jit(lambda args, solver: solve(f, z0, args, solver).trace[:, 0])
    whole = {"tol": 0.0, "stop_scope": "batch"}
    for mode in ("abs", "rel"):
        trace = run(args, Broyden(max_steps=20, stop_mode=mode, **whole))
        np.testing.assert_allclose(trace, figures[f"broyden_{mode}_trace"][:20], rtol=1e-3)
    # The reference's first entry is the third evaluation, that after our second step.
    trace = run(args, Anderson(max_steps=21, ridge_mode="absolute", **whole))
    np.testing.assert_allclose(trace[1:], figures["anderson_rel_trace"][:20], rtol=1e-3)


@pytest.mark.slow
def test_jacobian_loss(x64):
    model, variables, images, figures = setting("cls3", np.float64)
    z, v = (states(figures, kind, np.float64) for kind in ("zstar", "jac_probe"))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        changed = {**variables, "params": params}
        f, _, args = model.apply(changed, images, method="problem")
        return jacobian_loss(f, z, args, vectors=v)

    value, grads = loss(variables["params"])
    np.testing.assert_allclose(value, figures["jac_loss"], rtol=1e-5)
    ours = grads["cell"]["branches_0_blocks_0"]["conv2"]["v"]
    theirs = from_torch(("kernel",), figures["jac_loss_grad_branch0_conv2_weight_v"])
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)
