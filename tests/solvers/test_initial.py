"""Initial states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from mdeq_jax.solvers import initial_state

KEY = jax.random.key(3)
LIKE = {"a": jnp.ones((400, 6, 5)), "b": jnp.ones((400, 20), jnp.bfloat16)}
DRAWN = ["normal", "mixed", "mixed_samples"]


def in_float(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


@pytest.mark.parametrize("kind", ["zeros", *DRAWN])
def test_structure_shapes_and_dtypes(kind):
    state = initial_state(KEY, LIKE, kind)
    described = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert described == jax.tree.map(lambda x: (x.shape, x.dtype), LIKE)
    shapes = jax.eval_shape(lambda: LIKE)
    jax.tree.map(np.testing.assert_array_equal, initial_state(KEY, shapes, kind), state)


def test_zeros():
    assert all((x == 0).all() for x in jax.tree.leaves(initial_state(KEY, LIKE, "zeros")))


def test_normal_has_mean_0_and_variance_1():
    state = in_float(initial_state(KEY, LIKE, "normal"))
    for x in jax.tree.leaves(state):
        assert abs(x.mean()) < 4 / x.size**0.5
        assert abs(x.var() - 1) < 4 * (2 / x.size) ** 0.5
    # Leaves, samples and entries are independent: the correlation of 8000 pairs is near 0.
    a, b = state["a"].reshape(400, 30)[:, :20], state["b"]
    for x, y in [(a, b), (a[:-1], a[1:]), (a[:, :-1], a[:, 1:])]:
        assert abs((x * y).mean()) < 4 / x.size**0.5


def test_mixed_leaves_out_half_of_the_entries():
    normal, mixed = (in_float(initial_state(KEY, LIKE, kind)) for kind in ("normal", "mixed"))
    for x, y in zip(*map(jax.tree.leaves, (normal, mixed)), strict=True):
        np.testing.assert_array_equal(y[y != 0], x[y != 0])
        assert abs((y == 0).mean() - 0.5) < 2 / y.size**0.5  # 4 standard deviations
        assert len(np.unique(y == 0, axis=0)) == 400  # another mask for each sample


def test_mixed_samples_leaves_out_half_of_the_samples_in_all_leaves():
    normal, mixed = (in_float(initial_state(KEY, LIKE, k)) for k in ("normal", "mixed_samples"))
    chosen = (mixed["a"] != 0).any(axis=(1, 2))
    assert abs(chosen.mean() - 0.5) < 2 / 400**0.5
    for name in LIKE:
        np.testing.assert_array_equal(mixed[name][chosen], normal[name][chosen])
        np.testing.assert_array_equal(mixed[name][~chosen], 0)


@pytest.mark.parametrize("kind", DRAWN)
def test_a_sample_does_not_depend_on_how_the_batch_is_split(kind):
    like = jax.tree.map(lambda x: x[:16], LIKE)
    whole = jax.tree.map(lambda x: x[:16], initial_state(KEY, LIKE, kind))

    def on_device(like):
        first = jax.lax.axis_index("data") * len(like["a"])
        return initial_state(KEY, like, kind, first)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": PartitionSpec("data"), "out_specs": PartitionSpec("data")}
    ours = jax.jit(jax.shard_map(on_device, mesh=mesh, **specs))(like)
    jax.tree.map(np.testing.assert_array_equal, ours, whole)


def test_another_key_is_another_state():
    states = [initial_state(jax.random.key(i), LIKE, "normal") for i in range(2)]
    assert not any((x == y).all() for x, y in zip(*map(jax.tree.leaves, states), strict=True))


@pytest.mark.parametrize("kind", ["zero", None, "Normal"])
def test_a_kind_that_is_none(kind):
    with pytest.raises(ValueError, match=f"kind is {kind!r}; it must be one of 'zeros', 'normal'"):
        initial_state(KEY, LIKE, kind)
