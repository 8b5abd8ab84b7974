"""Errors and loss of a flow: figures worked out by hand, then the original's."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.flow import metrics
from mdeq_jax.flow.metrics import summarize_errors

# Compiled as one program, which is quicker than operation by operation.
flow_errors = jax.jit(metrics.flow_errors)
flow_loss = jax.jit(metrics.flow_loss, static_argnames="largest")
FIXTURE = Path(__file__).parents[1] / "fixtures/flow/flow_utils.npz"


@pytest.fixture
def pair(x64):
    """Prediction, truth and validity of the fixture, in float64 and with channels last."""
    with np.load(FIXTURE) as file:
        predicted, flow = (file[n].astype(float) for n in ("flow_pred", "flow_gt"))
        yield (
            jnp.moveaxis(predicted, 1, -1),
            jnp.moveaxis(flow, 1, -1),
            jnp.asarray(file["valid"] >= 0.5),
            file,
        )


def total(errors):
    return jax.tree.map(lambda each: each.sum(), errors)


def row(errors, length=100.0):
    """One image of a row of pixels: the prediction is off by `errors` to the right."""
    flow = jnp.zeros((1, 1, len(errors), 2)).at[..., 1].set(length)
    predicted = flow.at[0, 0, :, 0].add(jnp.array(errors, flow.dtype))
    return predicted, flow, jnp.ones((1, 1, len(errors)), bool)


def test_errors_by_hand():
    predicted, flow, valid = row([0, 0.5, 2, 4, 6, 1000.0])
    valid = valid.at[0, 0, 5].set(False)
    errors = {name: value.item() for name, value in flow_errors(predicted, flow, valid).items()}
    assert errors == {
        "error": 12.5,
        "pixels": 5,
        "near_1": 2,
        "near_3": 3,
        "near_5": 4,
        "outliers": 1,  # 4 is above 3 pixels, but not above 5 % of 100
        "image_error": 2.5,
        "images": 1,
    }
    assert summarize_errors(errors) == pytest.approx(
        {"epe": 2.5, "epe_per_image": 2.5, "f1_all": 20, "1px": 0.4, "3px": 0.6, "5px": 0.8}
    )


def test_an_error_is_the_length_of_a_vector():
    flow = jnp.zeros((1, 2, 2, 2))
    errors = flow_errors(flow + jnp.array([3.0, -4.0]), flow, jnp.ones((1, 2, 2), bool))
    assert errors["image_error"].item() == pytest.approx(5)
    # Any error above 3 pixels is an outlier where nothing moves.
    assert errors["outliers"].item() == 4


def test_pooled_pixels_differ_from_averaged_images():
    # An image of one valid pixel with error 8, one of four with error 3, and one without any.
    predicted = jnp.stack([jnp.full((2, 2, 2), e) for e in (8.0, 3.0, 50.0)]).at[..., 1].set(0)
    valid = jnp.ones((3, 2, 2), bool).at[0].set(False).at[0, 1, 1].set(True).at[2].set(False)
    found = summarize_errors(total(flow_errors(predicted, jnp.zeros_like(predicted), valid)))
    assert found["epe"] == pytest.approx((8 + 4 * 3) / 5)
    assert found["epe_per_image"] == pytest.approx((8 + 3) / 2)
    assert found["f1_all"] == pytest.approx(20)


def test_no_valid_pixel_at_all():
    predicted, flow, valid = row([1.0, 2.0])
    errors = flow_errors(predicted, flow, ~valid)
    assert all(value.item() == 0 for value in errors.values())
    assert all(np.isnan(value) for value in summarize_errors(total(errors)).values())
    assert flow_loss(predicted, flow, ~valid) == 0


def test_errors_add_up_over_batches(pair):
    predicted, flow, valid, _ = pair
    whole = flow_errors(predicted, flow, valid)
    for i in range(2):
        part = flow_errors(predicted[i : i + 1], flow[i : i + 1], valid[i : i + 1])
        for name in whole:
            np.testing.assert_allclose(part[name][0], whole[name][i], rtol=1e-12)


def test_the_loss_by_hand():
    predicted, flow, valid = row([1.0, 2.0, 4.0, 9.0], length=399.0)
    valid = valid.at[0, 0, 1].set(False)
    # Pixel 2 moves too far to count; the second component is right everywhere.
    flow, predicted = (each.at[0, 0, 2, 1].set(400) for each in (flow, predicted))
    assert flow_loss(predicted, flow, valid) == pytest.approx((1 + 9) / 8)
    assert flow_loss(predicted, flow, valid, largest=500) == pytest.approx((1 + 4 + 9) / 8)


def test_pixels_that_do_not_count_have_no_gradient():
    predicted, flow, valid = row([1.0, jnp.nan], length=1.0)
    predicted = predicted.at[..., 1].add(-1)
    gradient = jax.grad(flow_loss)(predicted, flow, valid.at[0, 0, 1].set(False))
    np.testing.assert_array_equal(gradient, [[[[0.25, -0.25], [0, 0]]]])


def test_half_precision_is_summed_in_single():
    predicted, flow, valid = row([1.0] * 4)
    errors = flow_errors(predicted.astype(jnp.bfloat16), flow.astype(jnp.bfloat16), valid)
    assert errors["error"].dtype == jnp.float32
    assert flow_loss(predicted.astype(jnp.bfloat16), flow, valid).dtype == jnp.float32


# The fixture holds float32 numbers.
RTOL = 1e-6


def test_errors_as_in_the_originals_training(pair):
    predicted, flow, valid, file = pair
    errors = flow_errors(predicted, flow, valid)
    size = valid[0].size
    np.testing.assert_allclose(errors["error"] / size, file["metric_epe"], rtol=RTOL)
    for limit in (1, 3, 5):
        # There, a pixel without truth has the error 0 and counts as near.
        near = errors[f"near_{limit}"] + (size - errors["pixels"])
        np.testing.assert_allclose(near / size, file[f"metric_{limit}px"], rtol=RTOL)


def test_errors_as_in_the_originals_evaluation(pair):
    predicted, flow, valid, file = pair
    everywhere = summarize_errors(total(flow_errors(predicted, flow, jnp.ones_like(valid))))
    assert everywhere["epe"] == pytest.approx(float(file["sintel_epe"]), rel=RTOL)
    kitti = summarize_errors(total(flow_errors(predicted, flow, valid)))
    assert kitti["epe_per_image"] == pytest.approx(float(file["kitti_epe"]), rel=RTOL)
    assert kitti["f1_all"] == pytest.approx(float(file["kitti_f1"]), rel=RTOL)


def test_the_originals_loss_of_three_predictions(pair):
    predicted, flow, valid, file = pair
    losses = [flow_loss(share * predicted, flow, valid) for share in (0.5, 0.9, 1)]
    loss = sum(0.8 ** (2 - i) * each for i, each in enumerate(losses))
    assert float(loss) == pytest.approx(float(file["loss_3_preds"]), rel=RTOL)
