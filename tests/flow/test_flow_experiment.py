"""DEQ-Flow as an experiment: the sliced training step against upstream's, data, and resuming."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flow_damped import random_like
from flow_layouts import (
    SIZE,
    make_all,
    make_kitti,
    random_flow,
    random_valid,
    write_flow,
    write_image,
)
from flow_narrow import NARROW
from jax import lax
from jax.sharding import PartitionSpec
from running import interrupted_after, mesh_of, take_steps

from mdeq_jax.applications import infer
from mdeq_jax.flow.config import DataConfig
from mdeq_jax.flow.data.sources import evaluation_source
from mdeq_jax.flow.experiment import Config, create_experiment
from mdeq_jax.flow.model.torch_files import LAYERS
from mdeq_jax.torch_files.fitting import wanted_arrays
from mdeq_jax.torch_files.names import from_torch
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.loop import train
from mdeq_jax.training.mesh import AXIS, replicate
from mdeq_jax.training.microbatches import Draw
from mdeq_jax.training.steps import make_gradient

LARGER = (19, 30)
FIXTURES = Path(__file__).parent.parent / "fixtures/flow"
TINY = override(
    Config(model=NARROW),
    {
        "data.crop": (32, 32),
        "data.batch_size": 8,
        "data.eval_batch_size": 8,
        "data.scenes": 64,
        "data.eval_scenes": 6,
        "solver.forward.max_steps": 3,
        "evaluation.steps": 4,
        "train.steps": 4,
        "optim.learning_rate": 0.01,
    },
)


def published(name):
    """An experiment with upstream's training options, its variables and arrays, in float64."""
    path, about = FIXTURES / f"{name}.pth", json.loads((FIXTURES / f"{name}.json").read_text())
    config = override(
        Config(model=infer("flow", path, {"detach_flow": not about["all_grad"]}).model),
        {
            "freeze_norm": True,
            "solver.forward.max_steps": about["train_f_thres"],
            "solver.forward.tol": 0.0,
            "correction.states": about["train_n_losses"],
            "correction.gamma": about["gamma"],
            "adjoint.steps": about["train_phantom_grad"][0],
        },
    )
    experiment = create_experiment(config)
    variables, _ = experiment.load_weights({}, str(path))
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        return experiment, jax.tree.map(np.float64, variables), dict(arrays)


@pytest.mark.slow
def test_the_sliced_training_step_is_upstreams(x64):
    """With attention; test_flow_parity has the gradients of the model without it."""
    experiment, variables, arrays = published("flow_gma")
    grid = lambda key: np.moveaxis(np.float64(arrays[key]), 1, -1)  # noqa: E731
    batch = {
        "first": grid("image1"),
        "second": grid("image2"),
        "flow": grid("gt"),
        "valid": arrays["valid"] >= 0.5,
    }
    gradient = make_gradient(experiment, unrolled=None)

    @functools.partial(
        jax.shard_map,
        mesh=mesh_of(1),
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(),
    )
    def step(variables, batch):
        params = lax.pcast(variables["params"], AXIS, to="varying")
        collections = {"batch_stats": variables["batch_stats"]}
        found = gradient(params, collections, batch, (), Draw(jax.random.key(0)))
        return lax.pmean((found.grads, found.metrics), AXIS)

    grads, metrics = jax.jit(step)(variables, batch)
    loss = metrics["loss"] + metrics["correction_term"]
    np.testing.assert_allclose(loss, arrays["train_loss"], rtol=1e-6)
    ours = traverse_util.flatten_dict({"params": grads})
    norm = jnp.sqrt(sum((leaf**2).sum() for leaf in ours.values()))
    np.testing.assert_allclose(norm, arrays["train_grad_norm"], rtol=1e-5)
    paths = {torch: wanted.path for torch, wanted in wanted_arrays(ours, LAYERS).items()}
    theirs = {k.removeprefix("train_grad/"): a for k, a in arrays.items() if "train_grad/" in k}
    assert len(theirs) >= 6
    for torch, array in theirs.items():
        expected = from_torch(paths[torch], array)
        bound = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(ours[paths[torch]], expected, rtol=0, atol=bound)


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_devices():
    # The bias of a convolution before a norm has the gradient 0, and Adam would scale its rounding.
    experiment = create_experiment(
        override(TINY, {"optim.name": "sgd", "optim.learning_rate": 1.0})
    )
    (one, _), (two, _) = (take_steps(experiment, devices, 2) for devices in (1, 2))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, jax.device_get(one.params), jax.device_get(two.params))
    jax.tree.map(close, jax.device_get(one.collections), jax.device_get(two.collections))
    assert any(np.ptp(x) > 0 for x in jax.tree.leaves(jax.device_get(one.collections)))


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_parameters(monkeypatch, tmp_path):
    experiment = create_experiment(TINY)
    interrupted_after(monkeypatch, experiment, tmp_path, 2)
    resumed = train(experiment, tmp_path)
    whole = train(experiment, tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, resumed.state.params, whole.state.params)
    assert set(resumed.metrics) >= {"eval/epe", "eval/epe_zero", "eval/solver_steps"}


def add_a_larger_pair(root):
    """A third pair of KITTI."""
    for frame in (10, 11):
        write_image(root / f"KITTI/training/image_2/000002_{frame}.png", frame, LARGER)
    write_flow(root / "KITTI/training/flow_occ/000002_10.png", 2, LARGER)


def metrics_of(config):
    """The metrics of every evaluation with random variables."""
    experiment, mesh = create_experiment(config), mesh_of(1)
    variables = random_like(jax.eval_shape(experiment.init, jax.random.key(0)))
    return Evaluator(experiment, mesh)(replicate(variables, mesh), unrolled=None)


def test_every_set_is_evaluated_on_its_valid_pixels(tmp_path):
    """The error of flow 0 is the mean length of the files' flow, whatever the padding."""
    make_all(tmp_path)
    add_a_larger_pair(tmp_path)
    sets = ("chairs", "kitti")
    options = {"evaluation.sets": sets, "data.root": str(tmp_path), "data.stage": "chairs"}
    config = override(TINY, options)
    metrics = metrics_of(config)
    assert create_experiment(config).score == ("eval/epe_chairs", False)
    length = np.linalg.norm(random_flow(3), axis=-1).mean()  # the third pair is the validation's
    np.testing.assert_allclose(metrics["eval/epe_zero_chairs"], length, rtol=1e-5)
    sizes = {0: SIZE, 1: SIZE, 2: LARGER}
    lengths = [
        np.linalg.norm(random_flow(pair, size), axis=-1)[random_valid(pair, size)]
        for pair, size in sizes.items()
    ]
    expected = np.concatenate(lengths).mean()
    np.testing.assert_allclose(metrics["eval/epe_zero_kitti"], expected, rtol=1e-5)
    assert metrics["eval/examples_kitti"] == 3
    assert metrics["eval/solver_steps_kitti"] == 4


@pytest.mark.parametrize(("rows", "first"), [(1, (16, 24)), (2, (24, 32))])
def test_images_of_one_batch_are_padded_to_one_size(tmp_path, rows, first):
    make_kitti(tmp_path)
    add_a_larger_pair(tmp_path)
    data = DataConfig(root=str(tmp_path), eval_batch_size=rows)
    source = evaluation_source(data, "kitti")
    examples = [source.example(record) for record in source.records]
    for name in ("first", "second", "flow", "valid"):
        sizes = [example[name].shape[:2] for example in examples]
        assert sizes == [first, first, (24, 32)]


def test_scenes_of_the_evaluation_may_be_larger():
    data = DataConfig(crop=(32, 32))
    assert evaluation_source(data, "shapes").example(0)["flow"].shape == (32, 32, 2)
    larger = dataclasses.replace(data, eval_size=(40, 64))
    assert evaluation_source(larger, "shapes").example(0)["flow"].shape == (40, 64, 2)
    with pytest.raises(ValueError, match=r"eval_size is \(40, 60\); it must be two multiples of 8"):
        dataclasses.replace(data, eval_size=(40, 60))


def test_files_without_a_folder():
    with pytest.raises(ValueError, match=r"config\.data\.root is None, but 'kitti' is read"):
        create_experiment(override(TINY, {"evaluation.sets": ("kitti",)})).evaluations()
