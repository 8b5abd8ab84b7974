"""The Jacobian loss and the spectral radius against dense Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import mdeq_jax as mx
from mdeq_jax import (
    Broyden,
    Exact,
    SolverResult,
    equilibrium,
    gradient_error,
    jacobian_loss,
)

# Compiled as one program, which is quicker than operation by operation.
spectral_radius = jax.jit(mx.spectral_radius, static_argnums=0, static_argnames="iterations")


def linear(z, a):
    return z @ a.T  # J = a for each sample


def matrix(n=6, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, n)) / np.sqrt(n))


def test_a_given_probe_is_taken_as_it_is(x64):
    a, z = matrix(), jnp.ones((3, 6))
    v = jnp.arange(18.0).reshape(3, 6)
    value = jacobian_loss(linear, z, a, vectors=v)
    np.testing.assert_allclose(value, np.sum((v @ a) ** 2) / 18, rtol=1e-12)


def test_its_expectation_is_the_frobenius_norm(x64):
    a, z = matrix(), jnp.ones((3, 6))
    value = jacobian_loss(linear, z, a, jax.random.key(0), probes=200)
    np.testing.assert_allclose(value, jnp.sum(a**2) / 6, rtol=0.1)


def test_probes_differ_between_leaves_and_draws(x64):
    f = lambda z, a: jax.tree.map(lambda x: a * x, z)  # noqa: E731
    z = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}
    one, two = (jacobian_loss(f, z, 1.0, jax.random.key(0), probes=p) for p in (1, 2))
    assert one != two
    halves = jax.tree.map(lambda x: jacobian_loss(f, x, 1.0, jax.random.key(0)), z)
    assert halves["a"] == halves["b"] != two


def test_differentiable_in_args_with_z_held_fixed(x64):
    f = lambda z, a: jnp.tanh(z @ a)  # noqa: E731
    a, z, key = matrix(4), jnp.linspace(-1.0, 1.0, 8).reshape(2, 4), jax.random.key(1)
    loss = lambda a, z: jacobian_loss(f, z, a, key)  # noqa: E731
    slope_a, slope_z = jax.grad(loss, argnums=(0, 1))(a, z)
    assert (slope_z == 0).all()
    direction = matrix(4, seed=2)
    h = 1e-6
    numeric = (loss(a + h * direction, z) - loss(a - h * direction, z)) / (2 * h)
    np.testing.assert_allclose(jnp.vdot(slope_a, direction), numeric, rtol=1e-7)


@pytest.mark.parametrize("given", [{}, {"key": jax.random.key(0), "vectors": jnp.ones((1, 2))}])
def test_either_a_key_or_vectors(given):
    with pytest.raises(ValueError, match="either a key or vectors"):
        jacobian_loss(linear, jnp.ones((1, 2)), jnp.eye(2), **given)


def test_numbers_of_products_below_one():
    with pytest.raises(ValueError, match=r"probes is 0; it must be at least 1"):
        jacobian_loss(linear, jnp.ones((1, 2)), jnp.eye(2), jax.random.key(0), probes=0)
    with pytest.raises(ValueError, match=r"iterations is 0; it must be at least 1"):
        spectral_radius(linear, jnp.ones((1, 2)), jnp.eye(2), jax.random.key(0), iterations=0)


def with_dominant_pair(angle):
    """A dominant pair of absolute value 0.849, seen in a basis that is not orthogonal."""
    block = 0.849 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    diagonal = np.diag([0.0, 0.0, 0.5, -0.3, 0.1])
    diagonal[:2, :2] = block
    basis = np.eye(5) + 0.4 * np.random.default_rng(0).normal(size=(5, 5))
    return jnp.asarray(basis @ diagonal @ np.linalg.inv(basis))


@pytest.mark.parametrize("angle", [np.pi / 4, 0.5, 3.0])
def test_a_complex_dominant_pair(x64, angle):
    a = with_dominant_pair(angle)
    assert np.abs(np.linalg.eigvals(a)).max() == pytest.approx(0.849)
    for iterations, error in ((100, 1e-2), (1000, 1e-4)):
        key, z = jax.random.key(0), jnp.ones((4, 5))
        radius = spectral_radius(linear, z, a, key, iterations=iterations)
        np.testing.assert_allclose(radius, np.full(4, 0.849), rtol=error)


def test_each_sample_has_its_own(x64):
    f = lambda z, a: jax.tree.map(lambda x: a[:, None] * x, z)  # noqa: E731
    z, radii = {"a": jnp.ones((3, 2)), "b": jnp.ones((3, 4))}, jnp.array([0.5, -0.9, 2.0])
    radius = spectral_radius(f, z, radii, jax.random.key(0), iterations=3)
    np.testing.assert_allclose(radius, abs(radii), rtol=1e-12)


def test_no_jacobian_no_radius():
    radius = spectral_radius(lambda z, a: a, jnp.ones((2, 3)), jnp.ones((2, 3)), jax.random.key(0))
    np.testing.assert_array_equal(radius, 0)


@pytest.mark.slow
def test_the_estimate_of_the_gradients_error(x64):
    """It follows the true error over six orders of magnitude, to about one."""
    weight = 0.9 * matrix(12) / np.linalg.norm(matrix(12), 2)
    x, probe = jnp.asarray(np.random.default_rng(0).normal(size=(20, 12))), jnp.zeros((20, 2))

    @jax.jit
    def gradient(solver):
        def loss(x, probe):
            f = lambda z, x: jnp.tanh(z @ weight + x)  # noqa: E731
            options = {"solver": solver, "adjoint": Exact(solver), "adjoint_probe": probe}
            z, result = equilibrium(f, jnp.zeros_like(x), x, **options)
            return jnp.sum(jnp.cos(z)), result

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, probe)

    (exact, _), _ = gradient(Broyden(80, 1e-13))
    true, estimated = [], []
    for tol in (1e-1, 1e-2, 1e-3, 1e-5, 1e-7):
        (rough, adjoint), result = gradient(Broyden(40, tol))
        error = np.linalg.norm(rough - exact, axis=1) / np.linalg.norm(exact, axis=1)
        true = np.append(true, error)
        estimated = np.append(estimated, gradient_error(result, adjoint))
    ratio = np.log10(estimated / true)
    assert abs(np.median(ratio)) < 0.7
    assert np.quantile(abs(ratio), 0.9) < 1.3
    assert np.corrcoef(np.log(true), np.log(estimated))[0, 1] > 0.95


def test_the_estimate_in_absolute_mode_and_at_its_ends(x64):
    z = jnp.full((3, 4), 2.0)
    residual = jnp.array([0.0, 1e-3, 0.5])
    trace = jnp.array([[0.0, 1e-1, 0.1], [0.0, 1e-2, 0.2], [0.0, 1e-3, 0.5]])
    result = SolverResult(z, jnp.array([0, 3, 3]), residual, residual < 1, trace)
    adjoint = jnp.array([[0, 0.0], [2, 0.01], [5, 0.9]])
    relative = gradient_error(result, adjoint)
    # Contraction 0.1 on both sides: (0.01 + 1e-3 / 0.9) / 0.9.
    np.testing.assert_allclose(relative[:2], [0, (0.01 + 1e-3 / 0.9) / 0.9], rtol=1e-12)
    assert 10 < relative[2] < 1e6  # no contraction is seen, and the estimate stays finite
    absolute = gradient_error(result, adjoint, "abs")
    np.testing.assert_allclose(absolute[1], (0.01 + 1e-3 / 4 / 0.9) / 0.9, rtol=1e-6)


def test_devices_that_share_z_and_not_the_map(x64):
    """Each has the Jacobian of its own map, and not their sum."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    a, key = jnp.stack([matrix(), matrix(seed=1)]), jax.random.key(0)
    z = jnp.ones((2, 6))

    def both(a):
        loss = jacobian_loss(linear, z, a[0], key)
        return loss[None], spectral_radius(linear, z, a[0], key)[None]

    spec = PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(both, mesh=mesh, in_specs=spec, out_specs=spec))
    one = jax.jit(both)
    alone = [one(a[i : i + 1]) for i in range(2)]
    expected = jax.tree.map(lambda *xs: jnp.concatenate(xs), *alone)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9), sharded(a), expected)
