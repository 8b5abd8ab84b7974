"""Segmentation in the training and the evaluation step, on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_steps import OPA, eval_step_of, experiment_of, initial_state, setup, with_sections

from mdeq_jax.commands import train
from mdeq_jax.layers.resize import resize_bilinear
from mdeq_jax.training.evaluation import solver_traces
from mdeq_jax.training.experiment import Evaluation
from mdeq_jax.training.mesh import shard
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.tasks import make_task

MODEL = {
    "task": "segmentation",
    "num_classes": 4,
    "branch_channels": (8, 8),
    "blocks_per_branch": (1, 1),
    "big_kernels": (0, 0),
    "downsample_times": 1,
}
WEIGHTS = (1.0, 0.5, 2.0, 1.5)


def with_segmentation(**sections):
    return with_sections(model=MODEL, **{"loss": {"class_weights": WEIGHTS}, **sections})


def make_batch(size, dtype=np.float32, side=8):
    """Images of which the first ones have few pixels that count, and the very first none."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(size, side, side, 3)).astype(dtype)
    label = rng.integers(0, 4, size=(size, side, side)).astype(np.int32)
    label[: size // 2][rng.random((size // 2, side, side)) < 0.7] = 255
    label[0] = 255
    return {"image": image, "label": label}


@pytest.mark.slow
def test_several_devices_do_what_one_does(x64):
    config = with_segmentation(**OPA, correction={"states": 2})
    batch, after = make_batch(8, np.float64), []
    for devices in (1, 4):
        step, state, mesh = setup(config, devices, dtype=jnp.float64)
        after.append(jax.device_get(step(state, shard(batch, mesh))))
    (state, metrics), (state4, metrics4) = after
    for one, four in zip(jax.tree.leaves(state), jax.tree.leaves(state4), strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-7, atol=1e-9)
    for name in ("loss", "pixel_accuracy", "correction_term"):
        np.testing.assert_allclose(metrics4[name], metrics[name], rtol=1e-9)


@pytest.mark.parametrize(
    "sections",
    [
        {"loss": {"class_weights": WEIGHTS, "ohem": True, "ohem_min_kept": 20}},
        {"jacobian": {"probability": 1.0, "weight": 0.1}},
    ],
    ids=str,
)
@pytest.mark.slow
def test_it_learns(sections):
    step, state, mesh = setup(with_segmentation(**sections), devices=2)
    batch, losses = shard(make_batch(8), mesh), []
    for _ in range(8):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert 0 < metrics["pixel_accuracy"] < 1
    assert "accuracy" not in metrics


def evaluate(config, batch, devices):
    _, state, mesh = setup(config, devices, dtype=jnp.float64)
    sums, labels = eval_step_of(config, mesh)(state.variables, batch)
    return state, sums, labels


@pytest.mark.slow
def test_evaluation_on_several_devices_is_that_on_one(x64):
    config = with_segmentation()
    batch = make_batch(4, np.float64) | {"mask": np.array([True, True, False, True])}
    batch["image"][2] = np.nan
    state, sums, labels = evaluate(config, batch, 1)
    _, sums4, labels4 = evaluate(config, batch, 4)
    np.testing.assert_array_equal(sums4["confusion"], sums["confusion"])
    np.testing.assert_array_equal(labels4, labels)
    np.testing.assert_allclose(sums4["loss"], sums["loss"], rtol=1e-9)
    assert sums["count"] == 3
    rows = np.array([0, 1, 3])
    assert sums["confusion"].sum() == (batch["label"][rows] != 255).sum()

    model, solver = create_model(config.model), config.solver.forward.build()
    logits, _ = model.apply(state.variables, batch["image"][rows], solver=solver)
    assert logits.shape[1:3] == (4, 4)
    logits = np.asarray(resize_bilinear(logits, (8, 8)))
    np.testing.assert_array_equal(labels[rows], logits.argmax(-1))
    known = batch["label"][rows] != 255
    truth = batch["label"][rows][known]
    chances = np.asarray(jax.nn.log_softmax(logits))[known][np.arange(len(truth)), truth]
    weights = np.array(WEIGHTS)[truth]
    metrics = make_task(config).summarize(jax.tree.map(np.asarray, sums))
    expected = -(weights * chances).sum() / weights.sum()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
    right = (labels[rows][known] == truth).mean()
    np.testing.assert_allclose(metrics["pixel_accuracy"], right, rtol=1e-6)


@pytest.mark.slow
def test_images_of_any_size_are_evaluated_at_several_scales():
    options = {"flip": True, "scales": (0.5, 1.0, 1.7), "window": (6, 7)}
    config = with_segmentation(inference=options)
    images = np.random.default_rng(0).normal(size=(2, 9, 11, 3)).astype(np.float32)
    labels = np.zeros((2, 9, 11), np.int32)
    batch = {"image": images, "label": labels, "mask": np.ones(2, bool)}
    _, sums, predicted = evaluate(config, batch, 2)
    assert predicted.shape == (2, 9, 11)
    assert sums["confusion"].sum() == labels.size
    assert 1 <= sums["statistics"]["solver_steps"] / 2 <= 40


def make_large_batch(height, width):
    images = np.random.default_rng(0).normal(size=(4, height, width, 3)).astype(np.float32)
    return {"image": images, "label": np.ones((4, height, width), np.int32)}


@pytest.mark.slow
def test_traces_of_images_of_any_size():
    config = with_segmentation(solver={"forward": {"max_steps": 4}, "backward": {"max_steps": 4}})
    variables, batch = initial_state(config).variables, make_large_batch(9, 11)
    padded = {
        "image": np.pad(batch["image"], [(0, 0), (0, 3), (0, 1), (0, 0)]),
        "label": np.pad(batch["label"], [(0, 0), (0, 3), (0, 1)], constant_values=255),
    }
    experiment = experiment_of(config)
    found, expected = (solver_traces(experiment, variables, b) for b in (batch, padded))
    assert [trace.shape for trace in found] == [(4, 4), (4, 4)]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draw a trained model's solves, given what traces them; eight devices, 16 images to draw."""
    experiment = experiment_of(with_segmentation(data={"eval_batch_size": 16}))
    images = np.zeros((16, 8, 8, 3), np.uint8)
    batch = {"image": images, "label": np.ones((16, 8, 8), np.int32), "mask": np.ones(16, bool)}
    evaluations = {"eval": Evaluation(lambda: iter([batch]))}
    monkeypatch.setattr(experiment, "evaluations", lambda: evaluations)
    path = tmp_path / "solver_trace.png"

    def draw(traces):
        monkeypatch.setattr(train, "solver_traces", traces)
        train._draw_solver_traces(experiment, initial_state(experiment.config), path)
        return path

    return draw


@pytest.mark.parametrize(("most", "drawn"), [(8, 2), (1, 1)])
def test_one_device_draws_some_of_its_share_of_a_batch(monkeypatch, draw, most, drawn):
    batches = []

    def traces(experiment, variables, batch):
        batches.append(jax.tree.map(len, batch))
        return np.ones((4, 1)), np.ones((4, 1))

    monkeypatch.setattr(train, "_DRAWN", most)
    assert draw(traces).exists()
    assert batches == [{"image": drawn, "label": drawn, "mask": drawn}]


def test_a_run_ends_well_without_its_picture(draw, capsys):
    def traces(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")

    assert not draw(traces).exists()
    assert capsys.readouterr().err == (
        "warning: solver_trace.png is left out: RESOURCE_EXHAUSTED: out of memory\n"
    )


def test_metrics_are_named_by_class():
    config = with_segmentation()
    confusion = np.diag([1, 2, 3, 0])
    sums = {"confusion": confusion, "loss": np.array(3.0), "weight": np.array(6.0)}
    metrics = make_task(config, ("road", "sky", "car", "bus")).summarize(sums)
    assert metrics["loss"] == 0.5
    assert metrics["miou"] == metrics["iou/car"] == 1
    assert np.isnan(metrics["iou/bus"])
    assert {"iou/0", "iou/3"} <= make_task(config).summarize(sums).keys()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"loss": {"class_weights": (1.0, 2.0)}}, "loss.class_weights has 2 entries.*is 4"),
        ({"loss": {"class_weights": (0.0, 0, 0, 0)}}, "class_weights is .*not all 0"),
        ({"loss": {"class_weights": (-1.0, 1, 1, 1)}}, "class_weights is .*at least 0"),
        ({"loss": {"ohem_threshold": 0.0}}, r"ohem_threshold is 0\.0; .* in \(0, 1\]"),
        ({"loss": {"ohem_min_kept": 0}}, "ohem_min_kept is 0; .* at least 1"),
        ({"inference": {"scales": ()}}, r"scales is \(\); .* numbers above 0"),
        ({"inference": {"window": (8,)}}, r"window is \(8,\); .* a height and a width"),
    ],
)
def test_options_that_are_refused(sections, message):
    with pytest.raises(ValueError, match=message):
        with_segmentation(**sections)


@pytest.mark.parametrize("sections", [{"loss": {"ohem": True}}, {"inference": {"flip": True}}])
def test_what_is_for_segmentation_alone(sections):
    with pytest.raises(
        ValueError, match=r"for segmentation, but config\.model\.task is 'classification'"
    ):
        with_sections(**sections)


def test_whole_numbers_are_fine_weights():
    weights = with_segmentation(loss={"class_weights": (1, 2, 3, 4)}).loss.class_weights
    assert weights == (1.0, 2.0, 3.0, 4.0)
    assert all(isinstance(weight, float) for weight in weights)
