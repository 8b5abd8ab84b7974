"""The training and the evaluation step, on one device and on several."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from mdeq_jax.implicit import Phantom, Unrolled
from mdeq_jax.solvers import Broyden
from mdeq_jax.stability import spectral_radius
from mdeq_jax.training.microbatches import make_gradient
from mdeq_jax.training.objective import Draw, loss_gradient, make_objective
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.state import TrainState, create_state
from mdeq_jax.training.steps import (
    check_batch_sizes,
    make_eval_step,
    make_train_step,
    replicate,
    shard,
)
from mdeq_jax.vision.config import finalize
from mdeq_jax.vision.losses import cross_entropy
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.model.mdeq import cell_function
from mdeq_jax.vision.tasks import Classification

CONFIG = finalize(
    {
        "model": {
            "branch_channels": (8,),
            "blocks_per_branch": (1,),
            "big_kernels": (0,),
            "head_channels": (4,),
            "final_channels": 16,
            "num_groups": 4,
            "expansion": 1,
        },
        "solver": {"forward": {"tol": 1e-10, "max_steps": 40}, "backward": {"tol": 1e-10}},
        "optim": {"learning_rate": 0.1, "name": "sgd"},
    }
)

# Few steps: more amplify what rounding makes of the order of a sum.
OPA = {
    "adjoint": {"name": "shine", "refine": 2, "opa_every": 2},
    "solver": {"forward": {"max_steps": 5}},
}


def with_sections(**sections):
    """CONFIG with some keys of some sections replaced."""
    nested = dataclasses.asdict(CONFIG)
    for name, keys in sections.items():
        nested[name] = merge(nested[name], keys)
    return finalize(nested)


def merge(section, keys):
    nested = {k: merge(section[k], v) if isinstance(v, dict) else v for k, v in keys.items()}
    return {**section, **nested}


def mesh_of(devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def make_batch(size: int, dtype=np.float32, side: int = 8) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    image = generator.normal(size=(size, side, side, 3)).astype(dtype)
    return {"image": image, "label": generator.integers(0, 10, size).astype(np.int32)}


@functools.cache
def initial_state(config):
    """The state before the first step, on the host."""
    model = create_model(config.model)
    optimizer = create_optimizer(config.optim, steps=10, steps_per_epoch=5)
    return jax.device_get(create_state(model, optimizer, (8, 8, 3), config.seed))


def setup(config, devices: int = 1, unrolled: int | None = None, dtype=jnp.float32):
    """A step, a state, and the mesh they live on."""
    mesh = mesh_of(devices)
    model = create_model(config.model, axis_name="data", dtype=config.compute_dtype)
    optimizer = create_optimizer(config.optim, steps=10, steps_per_epoch=5)
    state = initial_state(config)
    floating = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    state = replicate(jax.tree.map(floating, state), mesh)
    step = make_train_step(model, config, optimizer, mesh, unrolled=unrolled, steps_per_epoch=5)
    return step, state, mesh


def test_steps_learn_and_report():
    step, state, mesh = setup(CONFIG)
    batch, losses = shard(make_batch(8), mesh), []
    for _ in range(8):
        before = state
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        assert all(x.is_deleted() for x in jax.tree.leaves(before.params))  # it is consumed
    assert losses[-1] < losses[0]
    assert int(state.step) == 8
    assert isinstance(state, TrainState)
    assert 1 <= metrics["solver_steps"] <= 40
    assert 1 <= metrics["adjoint_steps"] <= 20
    assert 0 < metrics["adjoint_residual"] < 1
    assert set(metrics) == {
        "loss",
        "accuracy",
        "solver_steps",
        "residual",
        "adjoint_steps",
        "adjoint_residual",
        "adjoint_converged",
        "gradient_error",
        "grad_norm",
    }
    assert metrics["adjoint_residual"] < metrics["gradient_error"]


def gradient_of(config, unrolled=None):
    """`make_gradient` of a config, and what it is called with in the first step."""
    state, draw = initial_state(config), Draw(jax.random.key(0))
    gradient = make_gradient(create_model(config.model), config, unrolled=unrolled)
    return gradient, (state.params, state.batch_stats, make_batch(8), draw)


def test_the_share_of_adjoint_solves_that_converge():
    solver = {"forward": {"max_steps": 6}, "backward": {"max_steps": 3, "tol": 0.0}}
    config = with_sections(solver=solver)
    objective = make_objective(create_model(config.model), config, unrolled=None)
    _, (params, *rest) = gradient_of(config)
    by_probe = jax.jit(jax.grad(objective, argnums=1, has_aux=True))
    residuals = np.sort(by_probe(params, jnp.zeros((8, 2)), *rest)[0][:, 1])
    solver["backward"]["tol"] = float(residuals[2:4].mean())
    gradient, inputs = gradient_of(with_sections(solver=solver))
    assert jax.jit(gradient)(*inputs).metrics["adjoint_converged"] == 3 / 8


@pytest.mark.parametrize(
    ("adjoint", "unrolled"),
    [
        ({"name": "jacobian_free"}, None),
        ({"name": "neumann"}, None),
        ({"name": "phantom"}, None),
        ({"name": "shine", "refine": 2}, None),
        ({"name": "exact"}, 2),
    ],
)
def test_a_gradient_without_an_adjoint_solve_has_no_share(adjoint, unrolled):
    gradient, inputs = gradient_of(with_sections(adjoint=adjoint), unrolled)
    metrics = jax.eval_shape(gradient, *inputs).metrics
    assert "adjoint_steps" in metrics
    assert "adjoint_converged" not in metrics


@pytest.mark.slow
def test_evaluation_reports_the_spectral_radius_when_asked():
    config = with_sections(train={"spectral_radius_iterations": 20})
    _, state, mesh = setup(config, devices=2)
    eval_step = make_eval_step(create_model(config.model), config, mesh, unrolled=None)
    batch = make_batch(4) | {"mask": np.array([True, True, False, True])}
    sums, _ = jax.device_get(eval_step(state.variables, shard(batch, mesh)))
    model, solver = create_model(config.model), config.solver.forward.build()
    (_, info), sown = model.apply(
        state.variables, batch["image"], solver=solver, mutable=["intermediates"]
    )
    (args,) = sown["intermediates"]["cell_args"]
    radius = spectral_radius(
        cell_function(config.model), info.z, args, jax.random.key(3), iterations=100
    )
    np.testing.assert_allclose(sums["spectral_radius"], radius[np.array([0, 1, 3])].sum(), rtol=0.1)


@pytest.mark.slow
def test_fixed_point_correction_adds_weighted_losses_on_the_way():
    """With a phantom gradient for the last state too, all is ordinary backpropagation."""
    config = with_sections(
        adjoint={"name": "phantom", "steps": 2},
        correction={"states": 3, "gamma": 0.5},
        solver={"forward": {"max_steps": 6, "tol": 0.0}},
    )
    step, state, mesh = setup(config)
    batch = make_batch(8)
    model = create_model(config.model)

    def losses(steps):
        (logits, _), _ = model.apply(
            state.variables,
            batch["image"],
            solver=Broyden(6, 0.0),
            adjoint=Phantom(2, 0.5),
            step_limit=steps,
            train=True,
            mutable=["batch_stats"],
        )
        return cross_entropy(logits, batch["label"]).mean()

    first, second, last = (float(losses(steps)) for steps in (2, 4, 6))
    _, metrics = step(state, shard(batch, mesh))
    np.testing.assert_allclose(metrics["loss"], last, rtol=1e-4)
    np.testing.assert_allclose(metrics["correction_term"], first / 4 + second / 2, rtol=1e-4)
    assert metrics["grad_norm"] > 0


@pytest.mark.slow
def test_the_correction_reaches_the_gradient_and_not_the_running_statistics():
    after = []
    for states in (1, 2):
        forward = {"max_steps": 6, "tol": 0.0}
        config = with_sections(correction={"states": states}, solver={"forward": forward})
        step, state, mesh = setup(config)
        after.append(step(state, shard(make_batch(8), mesh)))
    (state, metrics), (corrected, corrected_metrics) = after
    assert abs(corrected_metrics["grad_norm"] / metrics["grad_norm"] - 1) > 0.01
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    jax.tree.map(same, corrected.batch_stats, state.batch_stats)


@pytest.mark.slow
def test_the_gradient_that_opa_learns_is_that_of_the_loss(x64):
    """By the state, with BatchNorm's running statistics, by finite differences."""
    model = create_model(CONFIG.model)
    floating = lambda x: x.astype(jnp.float64)  # noqa: E731
    variables = jax.tree.map(floating, initial_state(CONFIG).variables)
    batch = make_batch(4, np.float64)
    z = model.apply(variables, batch["image"], adjoint=Unrolled(3))[1].z
    gradient = loss_gradient(model, variables, batch, Classification().loss)(z)
    direction = jax.tree.map(lambda x: np.random.default_rng(1).normal(size=x.shape), z)

    def loss(by):
        moved = jax.tree.map(lambda z, d: z + by * d, z, direction)
        logits = model.apply(variables, moved, method="predict")
        return cross_entropy(logits, batch["label"]).mean()

    slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(slope, (loss(1e-5) - loss(-1e-5)) / 2e-5, rtol=1e-6)


def test_a_step_that_is_not_finite_is_skipped():
    step, state, mesh = setup(with_sections(train={"on_nonfinite": "skip"}), unrolled=2)
    good = make_batch(8)
    before = jax.device_get(state)
    unknown = np.full_like(good["label"], 99)
    state, metrics = step(state, shard({**good, "label": unknown}, mesh))
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(state),
        dataclasses.replace(before, step=before.step + 1),
    )
    state, metrics = step(state, shard(good, mesh))
    assert np.isfinite(metrics["loss"])
    moved = jax.tree.map(lambda new, old: (new != old).any(), state.params, before.params)
    assert any(jax.tree.leaves(moved))


def test_dropout_depends_on_the_step_and_the_seed_alone():
    model = dataclasses.replace(CONFIG.model, dropout=0.5)
    config = dataclasses.replace(CONFIG, model=model)
    step, state, mesh = setup(config)
    batch = shard(make_batch(8), mesh)
    later = dataclasses.replace(state, step=state.step + 1)
    copies = [jax.tree.map(jnp.copy, s) for s in (state, state, later)]
    first, again, other = (float(step(s, batch)[1]["loss"]) for s in copies)
    assert first == again != other


def test_evaluation_counts_what_is_not_masked():
    _, state, mesh = setup(CONFIG, devices=2)
    eval_step = make_eval_step(create_model(CONFIG.model), CONFIG, mesh, unrolled=None)
    batch = make_batch(4)
    masked = {**batch, "mask": np.array([True, True, False, True])}
    masked["image"] = batch["image"].copy()
    masked["image"][2] = np.nan
    sums, logits_of_step = jax.device_get(eval_step(state.variables, shard(masked, mesh)))
    model = create_model(CONFIG.model)
    logits, _ = model.apply(state.variables, batch["image"], solver=CONFIG.solver.forward.build())
    rows = np.array([0, 1, 3])
    labels = batch["label"][rows]
    log_probabilities = jax.nn.log_softmax(logits)[rows, labels]
    assert sums["count"] == 3
    assert sums["accuracy"] == (logits.argmax(-1)[rows] == labels).sum()
    np.testing.assert_allclose(sums["loss"], -log_probabilities.sum(), rtol=1e-4)
    assert np.isfinite(sums["residual"])
    np.testing.assert_allclose(logits_of_step[rows], logits[rows], rtol=1e-3, atol=1e-4)


def test_batch_sizes_that_do_not_divide_over_the_devices():
    config = finalize({"data": {"batch_size": 10}})
    with pytest.raises(ValueError, match=r"batch_size is 10; it must be a multiple of 4"):
        check_batch_sizes(config.data, mesh_of(4))
    check_batch_sizes(config.data, mesh_of(2))
    with pytest.raises(
        ValueError, match=r"of 2, the number of devices times config\.train\.accumulate_steps, 2"
    ):
        check_batch_sizes(config.data, mesh_of(2), accumulate_steps=2)
