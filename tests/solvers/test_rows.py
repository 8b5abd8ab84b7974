"""Rows hold states as they are, whatever room a row takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.solvers.rows import Rows


@pytest.fixture
def states(x64):
    """Three states; in each leaves of a whole page of memory, of nothing, of several dtypes."""
    rng = np.random.default_rng(0)
    sizes = {
        "empty": ((2, 0, 3), jnp.float32),
        "page": ((2, 16, 64), jnp.float32),
        "scalar": ((2,), jnp.float32),
        "wide": ((2, 3), jnp.float64),
    }
    return [
        {name: jnp.asarray(rng.normal(size=shape), dtype) for name, (shape, dtype) in sizes.items()}
        for _ in range(3)
    ]


@pytest.fixture
def rows(states):
    """The rows with those states in their middle."""
    rows = Rows.empty(5, states[0])
    for i, state in enumerate(states):
        rows = rows.write(jnp.array(i + 1), state)
    return rows


def test_what_is_read_is_what_was_written(rows, states):
    for i, state in enumerate(states):
        read = rows.read(jnp.array(i + 1))
        assert {name: x.dtype for name, x in read.items()} == {
            name: x.dtype for name, x in state.items()
        }
        for name in state:
            np.testing.assert_array_equal(read[name], state[name])


def flat(state):
    """All numbers of each sample of a state."""
    return np.concatenate([np.asarray(x, np.float64).reshape(2, -1) for x in state.values()], 1)


def test_products_and_sums(rows, states):
    dense = np.stack([flat(state) for state in states], axis=1)
    products = rows.inner_products(states[1])[:, 1:4]
    expected = np.einsum("brd,bd->br", dense, dense[:, 1])
    np.testing.assert_allclose(products, expected, rtol=1e-6, atol=1e-5)
    weights = np.array([[0, 1.0, -2.0, 0.5, 0], [0, 3.0, 0.1, 0, 0]])
    expected = np.einsum("br,brd->bd", weights[:, 1:4], dense)
    np.testing.assert_allclose(flat(rows.weighted_sum(jnp.asarray(weights))), expected, atol=1e-5)


def test_no_row_is_whole_pages_away_from_the_next(rows):
    leaves = jax.tree.unflatten(rows.structure, rows.leaves)
    width = {name: leaf.shape[2] * leaf.dtype.itemsize for name, leaf in leaves.items()}
    assert width["page"] % 4096
    assert (width["wide"], width["scalar"]) == (3 * 8, 4)
