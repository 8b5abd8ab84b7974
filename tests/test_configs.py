"""Every config of the repository: parameter counts, and a training step, traced or run."""

import dataclasses
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from mdeq_jax.training.mesh import shard
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.state import create_state, place_state
from mdeq_jax.training.steps import make_train_step
from mdeq_jax.vision.config import finalize
from mdeq_jax.vision.experiment import create_experiment
from mdeq_jax.vision.model import create_model

ROOT = Path(__file__).parent.parent
# Models other than MDEQ; tests/comparison, tests/apps, tests/reasoning and others have their sizes.
OTHERS = {"digits_resnet", "regression"}
OTHERS |= {"mazes", "mazes_large", "prefix_sums", "sudoku4", "sudoku9"}
OTHERS |= {"flow_shapes", "flow_chairs_base", "flow_things_base", "flow_things_huge"}
OTHERS |= {"flow_sintel_huge", "flow_kitti_huge"}
OTHERS |= {"inverse_digits", "adversarial_digits", "meta_sinusoid"}
OTHERS |= {"text_pydoc", "wikitext103_deq", "wikitext103_deq_reg", "wikitext103_preln_reg"}
OTHERS |= {"wikitext103_torchdeq"}
FILES = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__"}
NAMES = sorted(FILES - OTHERS)
COUNTS = {
    "digits": 158_890,
    "digit_scenes": 178_491,
    "digit_scenes_multitask": 287_782,
    "cifar10_tiny": 158_890,
    "cifar10_large": 11_097_438,
    "cifar10_large_reg": 11_097_438,
    "cifar10_large_phantom": 11_098_398,
    "imagenet_small": 16_808_936,
    "imagenet_small_reg": 18_613_496,
    "imagenet_small_phantom": 16_808_936,
    "imagenet_large": 67_063_624,
    "imagenet_large_reg": 67_061_224,
    "imagenet_xl": 90_463_280,
    "cityscapes_small": 8_968_467,
    "cityscapes_large": 55_955_859,
    "cityscapes_xl": 79_551_755,
}


@pytest.fixture(autouse=True)
def root_on_path(monkeypatch):
    """As for a command that is run from the root, where a config may start from another."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


def load(name):
    return finalize(importlib.import_module(f"configs.{name}").get_config())


@functools.cache
def parameters(config):
    """The number of a model's parameters; some configs have the same model."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(create_model(config).init, jax.random.key(0), images)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", NAMES)
def test_parameter_count(name):
    assert parameters(load(name).model) == COUNTS[name]


def test_the_table_of_models_has_every_config():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", (ROOT / "docs/models.md").read_text(), re.M)
    assert {name: int(count.replace(",", "")) for name, count in rows} == COUNTS


def test_a_classifier_of_digits_lends_scenes_all_but_the_head():
    scenes = load("digit_scenes").model
    classifier = dataclasses.replace(
        scenes, task="classification", num_classes=10, head_channels=(8, 8, 8), downsample_times=0
    )
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    ours, theirs = (
        jax.eval_shape(create_model(config).init, jax.random.key(0), images)["params"]
        for config in (scenes, classifier)
    )
    assert ours["stem"] == theirs["stem"]
    assert ours["cell"] == theirs["cell"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_header_has_the_command_and_the_figure(name):
    header = importlib.import_module(f"configs.{name}").__doc__
    assert f"python train.py --config configs/{name}.py --workdir runs/{name}" in header
    published = "Published: " in header and "locuslab/" in header
    assert published or name.startswith("digit") or name not in NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("cityscapes")])
def test_cityscapes_weighs_its_classes(name):
    weights = load(name).loss.class_weights
    assert len(weights) == 19
    assert np.mean(weights) == pytest.approx(1, abs=0.01)
    assert weights[0] == min(weights)  # road, of most pixels
    assert weights[17] == max(weights)  # motorcycle


def test_no_config_loads_what_reads_data():
    program = "\n".join(
        [
            "import sys",
            *(f"from configs import {name}" for name in FILES),
            "assert not {'tensorflow_datasets', 'grain', 'cv2'} & set(sys.modules)",
        ]
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def prepare(config, batch_size, image_size):
    """A training step, what makes its first state, a random batch, and the mesh."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    experiment = create_experiment(config)
    optimizer = create_optimizer(config.optim, steps=10, steps_per_epoch=5)
    step = make_train_step(experiment, optimizer, mesh, unrolled=None, steps_per_epoch=5)
    state = lambda: create_state(experiment, optimizer)  # noqa: E731
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *image_size, 3)).astype(np.float32)
    classes = config.model.num_classes
    grid = image_size if config.model.task == "segmentation" else ()
    shape = (batch_size, *grid)
    batch = {"image": images, "label": rng.integers(0, classes, shape).astype(np.int32)}
    if config.model.extra_heads:
        batch["image_label"] = rng.integers(0, classes, batch_size).astype(np.int32)
    return step, state, batch, mesh


# Of each task and estimator; these steps are run, the others are traced.
RUN = (
    *("cifar10_large_phantom", "imagenet_small_reg"),
    *("cityscapes_small", "digit_scenes_multitask"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(RUN)))
def test_training_step_fits_together(name):
    config = load(name)
    side = config.model.size_divisor
    step, state, batch, _ = prepare(config, 2, (side, 2 * side))
    before = jax.eval_shape(state)
    after, metrics = jax.eval_shape(step, before, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)
    assert metrics["loss"].shape == ()


def take_step(config, batch_size, image_size):
    step, state, batch, mesh = prepare(config, batch_size, image_size)
    before = place_state(jax.jit(state)(), mesh)
    kept = jax.device_get(before.params["head"])
    after, metrics = jax.device_get(step(before, shard(batch, mesh)))
    assert all(np.isfinite(value) for value in metrics.values())
    # At random weights an adjoint of three steps may well find nothing better than 0.
    moved = jax.tree.map(lambda old, new: (old != new).any(), kept, after.params["head"])
    assert all(jax.tree.leaves(moved))
    return metrics


def with_few_steps(config):
    few = lambda solver: dataclasses.replace(solver, max_steps=3)  # noqa: E731
    solver = dataclasses.replace(
        config.solver, forward=few(config.solver.forward), backward=few(config.solver.backward)
    )
    return dataclasses.replace(config, solver=solver)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_training_step(name):
    config = with_few_steps(load(name))
    sides = (config.model.size_divisor * 2,) * 2
    assert ("jacobian_term" in take_step(config, 2, sides)) == name.endswith("_reg")
