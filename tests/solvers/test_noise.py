"""Noise in the iteration: its statistics, and what each sample's numbers depend on."""

import jax
import jax.numpy as jnp
import maps
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mdeq_jax.solvers import Broyden, Picard, iterate, sample_keys, solve

KEY = jax.random.key(7)
NOISY = Picard(max_steps=12, tol=0.0, stop_mode="abs", damping=0.6, noise=0.3)


@jax.jit
def noisy(z0, args, key):
    return solve(maps.affine, z0, args, NOISY, key=key)


def test_the_stationary_variance_of_a_linear_map(x64):
    """From z ← (1 − λ + λa) z + λb + σε: mean b/(1 − a), variance σ²/(1 − (1 − λ + λa)²)."""
    slope, damping = 0.9, 0.5
    solver = Picard(200, 0.0, "abs", damping=damping, noise=0.2)
    start = {"a": jnp.zeros((500, 4)), "b": jnp.zeros((500, 6))}
    f = lambda z, _: jax.tree.map(lambda z: slope * z + 1, z)  # noqa: E731
    z = jax.jit(lambda key: iterate(f, start, None, solver, key=key).z)(KEY)
    z = np.concatenate([z["a"], z["b"]], axis=1) - 1 / (1 - slope)
    variance = 0.2**2 / (1 - (1 - damping + damping * slope) ** 2)
    assert abs(z.mean()) < 4 * (variance / z.size) ** 0.5
    assert abs(z.var() / variance - 1) < 4 * (2 / z.size) ** 0.5
    # Leaves, samples and entries are independent.
    for x, y in [(z[1:], z[:-1]), (z[:, 1:], z[:, :-1])]:
        assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 4 / x.size**0.5


def test_each_step_draws_other_numbers(x64):
    """With f(z) = z + 1 each difference of iterates is 1 and one draw of the noise."""
    solver = Picard(2, 0.0, "abs", noise=1.0)
    start, f = jnp.zeros((9, 50)), lambda z, _: z + 1
    run = jax.jit(lambda n: iterate(f, start, None, solver, key=KEY, step_limit=n).z)
    once, twice = run(1), run(2)
    assert abs(np.corrcoef(once.ravel(), (twice - once).ravel())[0, 1]) < 4 / 450**0.5
    assert abs(twice.mean() - 2) < 4 * (2 / 450) ** 0.5
    assert abs(twice.var() / 2 - 1) < 4 * (2 / 450) ** 0.5


def test_a_sample_alone_is_the_sample_among_others(x64):
    args, _ = maps.random_affine()
    together = noisy(jnp.zeros((4, 6)), args, KEY)
    keys = sample_keys(KEY, jnp.zeros((4, 6)))
    maps.assert_same(noisy(jnp.zeros((4, 6)), args, keys), together, rtol=0)
    for i in range(4):
        one = slice(i, i + 1)
        alone = noisy(jnp.zeros((1, 6)), jax.tree.map(lambda x, one=one: x[one], args), keys[one])
        np.testing.assert_allclose(alone.z, together.z[one], rtol=1e-12)
        np.testing.assert_allclose(alone.trace, together.trace[:, one], rtol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (3, 4)])
def test_vmap_is_a_loop(x64, shape):
    """One key for each batch, or one for each sample of each batch."""
    (matrix, offset), _ = maps.random_affine(size=12)
    args = matrix.reshape(3, 4, 6, 6), offset.reshape(3, 4, 6)
    keys = jax.random.split(KEY, shape)
    z0 = jnp.zeros((4, 6))
    mapped = jax.vmap(noisy, (None, 0, 0))(z0, args, keys)
    for i in range(3):
        alone = noisy(z0, jax.tree.map(lambda x, i=i: x[i], args), keys[i])
        maps.assert_same(jax.tree.map(lambda x, i=i: x[i], mapped), alone, rtol=1e-12)


def test_vmap_over_keys_only(x64):
    args, _ = maps.random_affine()
    keys = jax.random.split(KEY, 3)
    z = jax.vmap(lambda key: noisy(jnp.zeros((4, 6)), args, key).z)(keys)
    np.testing.assert_allclose(z[2], noisy(jnp.zeros((4, 6)), args, keys[2]).z, rtol=1e-12)
    assert (z[0] != z[1]).all()


def test_four_devices_are_one(x64):
    args, _ = maps.random_affine(size=8)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    rows = PartitionSpec("data")

    def on_device(args, key):
        z0 = jnp.zeros((2, 6))
        return noisy(z0, args, sample_keys(key, z0, 2 * jax.lax.axis_index("data"))).z

    specs = {"in_specs": (rows, PartitionSpec()), "out_specs": rows}
    found = jax.jit(jax.shard_map(on_device, mesh=mesh, **specs))(args, KEY)
    np.testing.assert_allclose(found, noisy(jnp.zeros((8, 6)), args, KEY).z, rtol=1e-12)


def test_only_the_keys_differ_between_devices(x64):
    """The map and the start are the same on all devices, so only the noise varies."""
    args, _ = maps.random_affine(size=2)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    keys = jax.random.split(KEY, (4, 2))
    on_device = lambda keys: noisy(jnp.zeros((2, 6)), args, keys[0]).z[None]  # noqa: E731
    rows = PartitionSpec("data")
    found = jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=rows, out_specs=rows))(keys)
    for z, key in zip(found, keys, strict=True):
        np.testing.assert_allclose(z, noisy(jnp.zeros((2, 6)), args, key).z, rtol=1e-12)


def test_an_explicit_mesh(x64):
    args, _ = maps.random_affine(size=8)
    expected = noisy(jnp.zeros((8, 6)), args, KEY)
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded, z0 = jax.device_put((args, jnp.zeros((8, 6))), rows)
    for key in (KEY, jax.device_put(sample_keys(KEY, expected.z), rows)):
        with jax.set_mesh(mesh):
            found = noisy(z0, sharded, key)
        np.testing.assert_allclose(found.z, expected.z, rtol=1e-12)


def test_without_noise_a_key_changes_nothing(x64):
    args, _ = maps.random_affine()
    text = []
    for key in (None, KEY):
        run = jax.jit(lambda z0, key=key: solve(maps.affine, z0, args, Broyden(), key=key))
        text.append(run.lower(jnp.zeros((4, 6))).compile().as_text())
    for threefry in ("xor", "u32"):
        assert text[1].count(threefry) == text[0].count(threefry)


def test_bad_noise_and_keys():
    f, z0 = lambda z, _: 0.5 * z, jnp.ones((3, 2))
    with pytest.raises(ValueError, match=r"Picard\.noise is -1; it must be .* at least 0"):
        Picard(noise=-1)
    with pytest.raises(ValueError, match=r"Picard\(noise=0\.1\) .* no key; pass key="):
        solve(f, z0, None, Picard(noise=0.1))
    with pytest.raises(ValueError, match=r"key has shape \(2,\); give one key, .* \(3,\)"):
        solve(f, z0, None, Picard(noise=0.1), key=jax.random.split(KEY))
    with pytest.raises(ValueError, match=r"key is 0; it must be a key, such as jax\.random\.key"):
        solve(f, z0, None, Picard(noise=0.1), key=0)
    run = jax.jit(lambda key: solve(f, z0, None, Picard(noise=0.1), key=key).z)
    np.testing.assert_array_equal(run(jax.random.PRNGKey(0)), run(jax.random.key(0)))
