"""The training and the evaluation step, on one device and on several."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy
from small import ROWS, Streams
from small import Config as SmallConfig

from mdeq_jax.implicit import Phantom, Unrolled
from mdeq_jax.solvers import Broyden
from mdeq_jax.stability import spectral_radius
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import make_eval_step
from mdeq_jax.training.experiment import Evaluation
from mdeq_jax.training.mesh import check_batch_sizes, shard
from mdeq_jax.training.microbatches import Draw
from mdeq_jax.training.objective import loss_gradient
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.state import TrainState, create_state, place_state
from mdeq_jax.training.steps import make_gradient, make_objective, make_train_step
from mdeq_jax.vision import experiment as vision_experiment
from mdeq_jax.vision.config import DataConfig, finalize
from mdeq_jax.vision.data import find_dataset
from mdeq_jax.vision.experiment import VisionExperiment
from mdeq_jax.vision.model import create_model

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
def experiment_of(config) -> VisionExperiment:
    """The experiment of a config, on a data set that fits its model and is not there."""
    dataset = dataclasses.replace(
        find_dataset(DataConfig()),
        task=config.model.task,
        class_names=tuple(map(str, range(config.model.num_classes))),
        image_labels=True,
    )
    with mock.patch.object(vision_experiment, "find_dataset", return_value=dataset):
        return VisionExperiment(config)


@functools.cache
def initial_state(config):
    """The state before the first step, on the host."""
    optimizer = create_optimizer(config.optim, steps=10, steps_per_epoch=5)
    return jax.device_get(create_state(experiment_of(config), optimizer))


def setup(config, devices: int = 1, unrolled: int | None = None, dtype=jnp.float32):
    """A step, a state, and the mesh they live on."""
    mesh, experiment = mesh_of(devices), experiment_of(config)
    optimizer = create_optimizer(config.optim, steps=10, steps_per_epoch=5)
    floating = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    state = place_state(jax.tree.map(floating, initial_state(config)), mesh)
    step = make_train_step(experiment, optimizer, mesh, unrolled=unrolled, steps_per_epoch=5)
    return step, state, mesh


def eval_step_of(config, mesh, unrolled: int | None = None):
    """The evaluation step as a function (variables, host batch) -> (sums, records), on the host."""
    evaluation = Evaluation(lambda: iter(()))
    step = make_eval_step(experiment_of(config), mesh, evaluation, unrolled=unrolled)
    return lambda variables, batch: jax.device_get(step(variables, shard(batch, mesh), ()))[:2]


def on_one_device(function):
    """The function, compiled, where one device is all of the mesh axis "data"."""
    everywhere = PartitionSpec()
    mapped = jax.shard_map(
        function, mesh=mesh_of(1), in_specs=everywhere, out_specs=everywhere, check_vma=False
    )
    return jax.jit(mapped)


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


def gradient_of(changes, unrolled=None):
    """`make_gradient` of a small experiment, and what it is called with in the first step."""
    experiment = Streams(override(SmallConfig(), changes))
    variables = experiment.init(jax.random.key(0))
    params = variables.pop("params")
    batch, draw = next(iter(experiment.train_batches())), Draw(jax.random.key(0))
    gradient = on_one_device(make_gradient(experiment, unrolled=unrolled))
    return gradient, (params, variables, batch, experiment.init_carry(ROWS), draw)


def test_the_share_of_adjoint_solves_that_converge():
    changes = {"solver.backward.max_steps": 1, "solver.backward.tol": 0.0}
    objective = make_objective(Streams(override(SmallConfig(), changes)), unrolled=None)
    _, (params, *rest) = gradient_of(changes)
    by_probe = on_one_device(jax.grad(objective, argnums=1, has_aux=True))
    residuals = np.sort(by_probe(params, jnp.zeros((ROWS, 2)), *rest)[0][:, 1])
    changes["solver.backward.tol"] = float(residuals[5:7].mean())
    gradient, inputs = gradient_of(changes)
    assert gradient(*inputs).metrics["adjoint_converged"] == 6 / ROWS


@pytest.mark.parametrize(
    ("changes", "unrolled"),
    [
        ({"adjoint.name": "jacobian_free"}, None),
        ({"adjoint.name": "neumann"}, None),
        ({"adjoint.name": "phantom"}, None),
        ({"adjoint.name": "shine", "adjoint.refine": 2}, None),
        ({"adjoint.name": "exact"}, 2),
    ],
)
def test_a_gradient_without_an_adjoint_solve_has_no_share(changes, unrolled):
    gradient, inputs = gradient_of(changes, unrolled)
    metrics = jax.eval_shape(gradient, *inputs).metrics
    assert "adjoint_steps" in metrics
    assert "adjoint_converged" not in metrics


@pytest.mark.slow
def test_evaluation_reports_the_spectral_radius_when_asked():
    config = with_sections(train={"spectral_radius_iterations": 20})
    _, state, mesh = setup(config, devices=2)
    batch = make_batch(4) | {"mask": np.array([True, True, False, True])}
    sums, _ = eval_step_of(config, mesh)(state.variables, batch)
    model, solver = create_model(config.model), config.solver.forward.build()
    found = model.apply(state.variables, batch["image"], solver=solver)[1].solution
    key = jax.random.key(3)
    radius = spectral_radius(found.f, found.z, found.args, key, iterations=100)
    expected = radius[np.array([0, 1, 3])].sum()
    np.testing.assert_allclose(sums["statistics"]["spectral_radius"], expected, rtol=0.1)


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
    jax.tree.map(same, corrected.collections, state.collections)


@pytest.mark.slow
def test_the_gradient_that_opa_learns_is_that_of_the_loss(x64):
    """By the state, with BatchNorm's running statistics, by finite differences."""
    experiment, model = experiment_of(CONFIG), create_model(CONFIG.model)
    floating = lambda x: x.astype(jnp.float64)  # noqa: E731
    variables = jax.tree.map(floating, initial_state(CONFIG).variables)
    batch = make_batch(4, np.float64)
    z = model.apply(variables, batch["image"], adjoint=Unrolled(3))[1].z
    gradient = loss_gradient(experiment, variables, batch)(z)
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
    batch = make_batch(4)
    masked = {**batch, "mask": np.array([True, True, False, True])}
    masked["image"] = batch["image"].copy()
    masked["image"][2] = np.nan
    sums, logits_of_step = eval_step_of(CONFIG, mesh)(state.variables, masked)
    model = create_model(CONFIG.model)
    apply = jax.jit(functools.partial(model.apply, solver=CONFIG.solver.forward.build()))
    logits, _ = apply(state.variables, batch["image"])
    rows = np.array([0, 1, 3])
    labels = batch["label"][rows]
    log_probabilities = jax.nn.log_softmax(logits)[rows, labels]
    assert sums["count"] == 3
    assert sums["accuracy"] == (logits.argmax(-1)[rows] == labels).sum()
    np.testing.assert_allclose(sums["loss"], -log_probabilities.sum(), rtol=1e-4)
    assert np.isfinite(sums["statistics"]["residual"])
    np.testing.assert_allclose(logits_of_step[rows], logits[rows], rtol=1e-3, atol=1e-4)


def test_batch_sizes_that_do_not_divide_over_the_devices():
    config = finalize({"data": {"batch_size": 10}})
    with pytest.raises(ValueError, match=r"batch_size is 10; it must be a multiple of 4"):
        check_batch_sizes(config, mesh_of(4))
    check_batch_sizes(config, mesh_of(2))
    with pytest.raises(
        ValueError, match=r"of 2, the number of devices times config\.train\.accumulate_steps, 2"
    ):
        check_batch_sizes(
            finalize({"data": {"batch_size": 10}, "train": {"accumulate_steps": 2}}), mesh_of(2)
        )
