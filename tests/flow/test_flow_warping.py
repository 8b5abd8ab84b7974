"""The forward splat of a flow."""

from pathlib import Path

import numpy as np
import pytest

from mdeq_jax.flow.warping import splat_forward

FIXTURE = Path(__file__).parents[1] / "fixtures/flow/flow_utils.npz"


def test_as_the_original():
    with np.load(FIXTURE) as file:
        flow, expected = (np.moveaxis(file[name], 0, -1) for name in ("splat_flow", "splat_out"))
    found = splat_forward(flow)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("motion", [(0, 0), (2, 1), (-1.5, 0.25)])
def test_a_constant_flow_stays(motion):
    flow = np.full((6, 9, 2), motion, np.float32)
    np.testing.assert_array_equal(splat_forward(flow), flow)


def test_a_moving_square_takes_its_flow_along():
    # Rows 2…4 of columns 1…3 move by 4 to the right, the rest downwards out of the field.
    flow = np.full((8, 10, 2), (0, 20), np.float32)
    flow[2:5, 1:4] = 4, 0
    flow[0, 0] = 0.5, 0.5
    splat = splat_forward(flow)
    np.testing.assert_array_equal(splat[2:5, 5:8], np.full((3, 3, 2), (4, 0)))
    # What has come nearest is taken: here the flow of the corner.
    assert splat[0, 0].tolist() == splat[1, 1].tolist() == [0.5, 0.5]
    # A flow of the other direction ends elsewhere.
    flow[2:5, 1:4] = -4, 0
    assert splat_forward(flow)[3, 6].tolist() == [0.5, 0.5]


def test_a_field_of_which_all_leaves():
    assert (splat_forward(np.full((4, 5, 2), 100.0)) == 0).all()


def test_a_batch_is_splat_field_by_field():
    flow = np.random.default_rng(0).normal(size=(2, 3, 6, 7, 2))
    splat = splat_forward(flow)
    assert splat.shape == flow.shape
    np.testing.assert_array_equal(splat[1, 2], splat_forward(flow[1, 2]))
