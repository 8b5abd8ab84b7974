"""Padding to multiples of 8, by both conventions."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.flow.padding import Padding, padding_of

FIXTURE = Path(__file__).parents[1] / "fixtures/flow/flow_utils.npz"
MODES = ("sintel", "kitti")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", range(3))
def test_as_the_original(mode, number):
    with np.load(FIXTURE) as file:
        images = np.moveaxis(file[f"pad{number}_x"], 1, -1)
        expected = np.moveaxis(file[f"pad{number}_{mode}"], 1, -1)
        left, right, top, bottom = file[f"pad{number}_{mode}_lrtb"]
    padding = padding_of(*images.shape[1:3], mode)
    assert padding == Padding(top, bottom, left, right)
    np.testing.assert_array_equal(padding.pad(images), expected)
    np.testing.assert_array_equal(padding.unpad(expected), images)


@pytest.mark.parametrize("mode", MODES)
def test_the_least_padding_to_multiples_of_8(mode):
    for height in range(1, 18):
        for width in range(1, 18):
            top, bottom, left, right = padding_of(height, width, mode)
            for side, added in ((height, top + bottom), (width, left + right)):
                assert (side + added) % 8 == 0
                assert 0 <= added < 8
            assert right - left in (0, 1)
            assert bottom - top in (0, 1) if mode == "sintel" else top == 0


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_arrays_of_any_kind(convert):
    padding = padding_of(5, 9, "sintel")
    for shape in ((5, 9, 2), (3, 5, 9, 2), (2, 3, 5, 9, 1)):
        images = convert(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
        padded = padding.pad(images)
        assert type(padded) is type(images)
        assert padded.dtype == images.dtype
        assert padded.shape == (*shape[:-3], 8, 16, shape[-1])
        assert (padded[..., 0, 0, :] == images[..., 0, 0, :]).all()
        assert (padded[..., -1, -1, :] == images[..., -1, -1, :]).all()
        assert (padding.unpad(padded) == images).all()


def test_within_a_compiled_function():
    padding = padding_of(5, 9, "kitti")
    images = jnp.arange(90.0).reshape(1, 5, 9, 2)
    there_and_back = jax.jit(lambda x: padding.unpad(padding.pad(x)))
    np.testing.assert_array_equal(there_and_back(images), images)


def test_an_unknown_mode():
    with pytest.raises(ValueError, match="mode is 'chairs'; it must be one of 'sintel', 'kitti'"):
        padding_of(8, 8, "chairs")
