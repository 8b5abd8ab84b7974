"""One equilibrium, several heads: what is minimised, where gradients flow, what is reported."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_segmentation
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy
from test_segmentation import MODEL, with_segmentation
from test_steps import eval_step_of, experiment_of, initial_state, on_one_device, setup

from mdeq_jax.implicit import Unrolled
from mdeq_jax.training.mesh import shard
from mdeq_jax.training.microbatches import Draw
from mdeq_jax.training.steps import make_objective
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import find_dataset
from mdeq_jax.vision.experiment import require_fit
from mdeq_jax.vision.losses import segmentation_loss
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.tasks import make_task

BOTH = ("classification", "scales")
NAMES = ["segmentation", "classification", "scale_0", "scale_1"]


def with_heads(heads=BOTH, **sections):
    model = {**MODEL, "extra_heads": heads, "head_channels": (4, 4), "final_channels": 16}
    sections["loss"] = {"class_weights": test_segmentation.WEIGHTS, **sections.get("loss", {})}
    return test_segmentation.with_sections(model=model, **sections)


def make_batch(size, dtype=np.float32):
    batch = test_segmentation.make_batch(size, dtype)
    return batch | {"image_label": np.arange(size, dtype=np.int32) % 4}


def float32_state(config):
    """As `initial_state`, but not kept for tests in float64, which draw another one."""
    return initial_state.__wrapped__(config)


@functools.cache
def gradient(config):
    """The objective of a batch on one device, its metrics, and its gradient by the parameters."""
    state, batch = float32_state(config), make_batch(4)
    objective = make_objective(experiment_of(config), unrolled=2)
    probe, draw = jnp.zeros((len(batch["label"]), 2)), Draw(jax.random.key(0))
    run = on_one_device(jax.value_and_grad(objective, has_aux=True))
    (value, outcome), grads = run(state.params, probe, state.collections, batch, (), draw)
    return jax.device_get((value, outcome.metrics, grads))


@pytest.mark.slow
def test_logits_of_every_head():
    config = with_heads()
    model, images = create_model(config.model), make_batch(2)["image"]
    logits, info = model.apply(float32_state(config).variables, images, adjoint=Unrolled(2))
    shapes = {"segmentation": (4, 4), "classification": (), "scale_0": (4, 4), "scale_1": (2, 2)}
    assert {name: x.shape for name, x in logits.items()} == {
        name: (2, *grid, 4) for name, grid in shapes.items()
    }
    params = float32_state(config).params["extra_heads_scale_1"]["pixel_classifier"]
    by_hand = info.z[1] @ params["kernel"][0, 0] + params["bias"]
    np.testing.assert_allclose(logits["scale_1"], by_hand, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_weighted_sum_of_those_of_the_heads():
    config = with_heads(loss={"classification_weight": 0.7, "scale_weight": 0.3})
    batch, rng = make_batch(4), np.random.default_rng(1)
    shapes = {"segmentation": (4, 4), "classification": (), "scale_0": (4, 4), "scale_1": (2, 2)}
    logits = {
        name: rng.normal(size=(4, *grid, 4)).astype(np.float32) for name, grid in shapes.items()
    }
    of_pixels = {
        name: segmentation_loss(logits[name], batch["label"], config.loss)
        for name in ("segmentation", "scale_0", "scale_1")
    }
    of_image = cross_entropy(logits["classification"], batch["image_label"]).mean()
    scales = of_pixels["scale_0"] + of_pixels["scale_1"]
    expected = of_pixels["segmentation"] + 0.7 * of_image + 0.3 * scales
    task = make_task(config)
    np.testing.assert_allclose(task.loss(logits, batch), expected, rtol=1e-6)
    reported = task.train_metrics(logits, batch)
    np.testing.assert_allclose(reported["classification_loss"], of_image, rtol=1e-6)
    np.testing.assert_allclose(reported["scale_1_loss"], of_pixels["scale_1"], rtol=1e-6)
    accuracy = (logits["classification"].argmax(-1) == batch["image_label"]).mean()
    np.testing.assert_allclose(reported["classification_accuracy"], accuracy)


@pytest.mark.slow
def test_every_head_and_the_cell_have_gradients():
    value, metrics, grads = gradient(with_heads())
    assert set(grads) == {"stem", "cell", "head", *(f"extra_heads_{name}" for name in NAMES[1:])}
    for part in grads.values():
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part))
    weighted = metrics["segmentation_loss"] + metrics["classification_loss"]
    weighted += 0.1 * (metrics["scale_0_loss"] + metrics["scale_1_loss"])
    np.testing.assert_allclose(value, weighted, rtol=1e-6)
    assert value == metrics["loss"]


@pytest.mark.slow
def test_heads_of_weight_0_change_nothing():
    """Parameters are drawn by name, so that both models begin alike."""
    weightless = {"classification_weight": 0.0, "scale_weight": 0.0}
    grads, alone = gradient(with_heads(loss=weightless))[2], gradient(with_segmentation())[2]
    for part in ("stem", "cell", "head"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
            grads[part],
            alone[part],
        )
    for name in NAMES[1:]:
        assert not any(leaf.any() for leaf in jax.tree.leaves(grads[f"extra_heads_{name}"]))


@pytest.mark.slow
def test_the_cell_feels_extra_heads():
    grads, alone = gradient(with_heads(("classification",)))[2], gradient(with_segmentation())[2]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-5, grads["cell"], alone["cell"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_several_devices_do_what_one_does(x64):
    batch, after = make_batch(8, np.float64), []
    for devices in (1, 4):
        step, state, mesh = setup(with_heads(), devices, unrolled=2, dtype=jnp.float64)
        after.append(jax.device_get(step(state, shard(batch, mesh))))
    (state, metrics), (state4, metrics4) = after
    for one, four in zip(jax.tree.leaves(state), jax.tree.leaves(state4), strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-7, atol=1e-9)
    for name in ("loss", *(f"{name}_loss" for name in NAMES), "classification_accuracy"):
        np.testing.assert_allclose(metrics4[name], metrics[name], rtol=1e-9)


@pytest.mark.slow
def test_evaluation_reports_both_tasks():
    config = with_heads()
    batch = make_batch(4) | {"mask": np.array([True, True, False, True])}
    batch["image"][2] = np.nan
    totals, labels = [], []
    for devices in (1, 4):
        _, state, mesh = setup(config, devices)
        sums, output = eval_step_of(config, mesh, unrolled=2)(state.variables, batch)
        totals.append(make_task(config).summarize(sums))
        labels.append(output)
    np.testing.assert_array_equal(*labels)
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)
    assert labels[0].shape == batch["label"].shape
    assert {"segmentation_miou", "segmentation_iou/3", "segmentation_loss"} <= totals[0].keys()
    assert make_task(config).score in totals[0]
    assert not any(name.startswith("scale") for name in totals[0])

    rows = np.array([0, 1, 3])
    logits, _ = create_model(config.model).apply(
        state.variables, batch["image"][rows], adjoint=Unrolled(2)
    )
    right = logits["classification"].argmax(-1) == batch["image_label"][rows]
    assert totals[0]["classification_accuracy"] == pytest.approx(right.mean())


def test_classification_alone_goes_by_the_images_labels():
    config = test_segmentation.with_sections(
        model={
            "branch_channels": (8, 8),
            "blocks_per_branch": (1, 1),
            "big_kernels": (0, 0),
            "head_channels": (4, 4),
            "num_classes": 4,
        }
    )
    batch = make_batch(4)
    logits = np.eye(4, dtype=np.float32)[[0, 1, 2, 0]]
    assert make_task(config).train_metrics(logits, batch)["accuracy"] == 0.75


@pytest.mark.parametrize(
    ("heads", "loss", "message"),
    [
        (("scales",), {"classification_weight": 0.5}, r"is 0\.5, but .*add 'classification'"),
        (("classification",), {"scale_weight": 0.5}, r"scale_weight is 0\.5, but .*add 'scales'"),
        (BOTH, {"scale_weight": -1.0}, r"scale_weight is -1\.0; .*at least 0"),
    ],
)
def test_weights_that_are_refused(heads, loss, message):
    with pytest.raises(ValueError, match=message):
        with_heads(heads, loss=loss)


def test_a_data_set_without_labels_of_images():
    scenes = find_dataset(DataConfig(name="digit_scenes", image_size=(64, 64)))
    labelled = dataclasses.replace(scenes, class_names=tuple("abcd"))
    plain = dataclasses.replace(labelled, image_labels=False)
    require_fit(with_heads(("scales",)), plain)
    require_fit(with_heads(), labelled)
    with pytest.raises(ValueError, match=r"extra_heads is .*no label for an image as a whole"):
        require_fit(with_heads(), plain)
