"""The alignment score against analytic values and explicit loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import mdeq_jax as mx
from mdeq_jax import Picard, initial_state, rolled
from mdeq_jax.stability import cosine

# Compiled as one program, which is quicker than operation by operation.
alignment = jax.jit(mx.alignment, static_argnums=(0, 4))
solve = jax.jit(mx.solve, static_argnums=(0, 3))
SOLVER = Picard(max_steps=60, tol=1e-6)
SIGNS = np.array([[1, 1, 1, 1], [1, 1, 1, -1], [1, -1, -1, -1], [-1, -1, -1, -1]], float)


def contraction(z, x):
    return 0.5 * jnp.tanh(z) + x


def two_attractors(z, x):
    return jnp.tanh(2 * z) + 0.05 * x  # the attractors keep the signs of the start


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def test_a_contraction_has_the_score_one(x64):
    x = normal(4, 3)
    z = solve(contraction, jnp.zeros((4, 3)), x, SOLVER).z
    noise = initial_state(jax.random.key(0), rolled(z), "normal")
    for starts in (rolled(z), noise):
        np.testing.assert_allclose(alignment(contraction, z, x, starts, SOLVER), 1, atol=1e-9)


def test_two_attractors_have_the_analytic_score(x64):
    """Without input, the entries of all states are ±z*, so the cosine is the mean of the signs'
    products; for states of one entry it is their product, whatever the input."""
    x = jnp.zeros((4, 4))
    z = solve(two_attractors, jnp.asarray(SIGNS), x, SOLVER).z
    expected = (SIGNS @ SIGNS.T / 4).mean(1)
    found = alignment(two_attractors, z, x, rolled(z), SOLVER)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found.min() < 0.3

    x, signs = normal(4, 1), SIGNS[:, 3:]
    z = solve(two_attractors, jnp.asarray(signs), x, SOLVER).z
    found = alignment(two_attractors, z, x, rolled(z), SOLVER)
    np.testing.assert_allclose(found, signs[:, 0] * signs.mean(), atol=1e-12)


def test_all_rolls_are_all_pairs_of_states_of_several_leaves(x64):
    x = {"a": normal(4, 2), "b": normal(4, 2, 2, seed=1)}
    f = lambda z, x: jax.tree.map(two_attractors, z, x)  # noqa: E731
    z = solve(f, jax.tree.map(jnp.sign, x), x, SOLVER).z
    flat = lambda tree: np.concatenate([tree["a"], tree["b"].reshape(-1, 4)], axis=1)  # noqa: E731
    pairs = np.empty((4, 4))
    for i in range(4):
        start = jax.tree.map(lambda leaf, i=i: jnp.stack([leaf[i]] * 4), z)
        ours, other = flat(z), flat(solve(f, start, x, SOLVER).z)
        sizes = np.linalg.norm(ours, axis=1) * np.linalg.norm(other, axis=1)
        pairs[i] = (ours * other).sum(1) / sizes
    assert pairs.min() < 0
    found = alignment(f, z, x, rolled(z), SOLVER)
    np.testing.assert_allclose(found, pairs.mean(0), rtol=1e-12)
    some = alignment(f, z, x, rolled(z, shifts=(1, 3)), SOLVER)
    b = np.arange(4)
    np.testing.assert_allclose(some, (pairs[b - 1, b] + pairs[b - 3, b]) / 2, rtol=1e-12)


def test_a_collapsed_map_has_the_score_one():
    """It forgets its start and its input, and answers nothing."""
    z = normal(3, 2)
    starts = initial_state(jax.random.key(0), jnp.zeros((5, 3, 2)), "normal")
    for value in (1.0, 0.0):
        collapsed = lambda z, _, value=value: jnp.full_like(z, value)  # noqa: E731
        end = solve(collapsed, z, None, SOLVER).z
        np.testing.assert_array_equal(alignment(collapsed, end, None, starts, SOLVER), 1)


def test_as_many_steps_as_the_solve_that_is_tested(x64):
    """After k steps of z ← z/2 + 1 from z0 = s, z is 2 − (2 − s) / 2ᵏ."""
    f = lambda z, _: z / 2 + 1  # noqa: E731
    z = jnp.array([[1.0, 1.0]])
    starts = jnp.array([[[-6.0, 2.0]]])
    for k in (1, 2, 10):
        a, b = 2 - 8 / 2**k, 2.0
        found = alignment(f, z, None, starts, Picard(10, 0.0), step_limit=k)
        np.testing.assert_allclose(found, (a + b) / np.sqrt(2 * (a**2 + b**2)), rtol=1e-12)


def test_cosines():
    large, small = 1e30, 1e-30
    a = jnp.array([[0.0, 0.0], [0.0, 0.0], [large, 0.0], [large, large], [jnp.nan, 1.0]])
    b = jnp.array([[0.0, 0.0], [small, 0.0], [-small, 0.0], [small, 0.0], [1.0, 1.0]])
    found = jax.jit(cosine)(a, b)
    np.testing.assert_allclose(found, [1, 0, -1, 0.5**0.5, np.nan], rtol=1e-6)
    narrow = jax.eval_shape(cosine, a.astype(jnp.bfloat16), b.astype(jnp.bfloat16))
    assert narrow.dtype == jnp.float32
    slope = jax.jit(jax.grad(lambda a, b: cosine(a, b).sum()))(a[:4], b[:4])
    assert jnp.isfinite(slope).all()


def test_under_jit_and_vmap(x64):
    x = normal(2, 4, 3)
    z0 = jnp.sign(normal(2, 4, 3, seed=1))

    @jax.jit
    def score(z0, x):
        z = solve(two_attractors, z0, x, SOLVER).z
        return alignment(two_attractors, z, x, rolled(z, (1,)), SOLVER)

    each = jnp.stack([score(z0[i], x[i]) for i in range(2)])
    np.testing.assert_allclose(jax.vmap(score)(z0, x), each, rtol=1e-9)


def test_devices_that_share_z_and_not_the_map(x64):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    z, x = jnp.sign(normal(4, 3)), normal(2, 4, 3, seed=1)
    starts = rolled(z)

    def score(x):
        return alignment(two_attractors, z, x[0], starts, SOLVER)[None]

    spec = PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(score, mesh=mesh, in_specs=spec, out_specs=spec))
    alone = jnp.concatenate([score(x[:1]), score(x[1:])])
    np.testing.assert_allclose(sharded(x), alone, rtol=1e-9)


def test_starts_made_outside_do_not_depend_on_the_devices(x64):
    x, z0 = normal(4, 3), jnp.sign(normal(4, 3, seed=1))
    z = solve(two_attractors, z0, x, SOLVER).z
    run = lambda z, x, starts: alignment(two_attractors, z, x, starts, SOLVER)  # noqa: E731
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    rows, second = PartitionSpec("data"), PartitionSpec(None, "data")
    sharded = jax.shard_map(run, mesh=mesh, in_specs=(rows, rows, second), out_specs=rows)
    starts = rolled(z)
    np.testing.assert_allclose(jax.jit(sharded)(z, x, starts), run(z, x, starts), rtol=1e-9)


def test_states_are_rolled_within_groups():
    z = jnp.arange(6.0)
    expected = [[2, 0, 1, 5, 3, 4], [1, 2, 0, 4, 5, 3]]
    np.testing.assert_array_equal(mx.rolled(z, (1, 2), group=3), expected)
    np.testing.assert_array_equal(mx.rolled(z, group=6), mx.rolled(z))
    with pytest.raises(ValueError, match=r"group is 4; it must divide the 6 samples"):
        mx.rolled(z, group=4)
