"""Meshes with explicit axes, which `jax.make_mesh` makes by default."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mdeq_jax.implicit import Exact, Neumann, Phantom, Shine, equilibrium
from mdeq_jax.solvers import Anderson, Broyden, Picard, solve


def cell(z, args):
    """A map on a dict of leaves of different ranks."""
    weight, x = args
    mean = z["a"].mean(axis=1)[:, None, None]
    return {"a": jnp.tanh(z["a"] @ weight + x), "b": 0.5 * jnp.cos(z["b"]) + 0.1 * mean}


def loss(weight, x, probe, solver, adjoint):
    z0 = {"a": jnp.zeros_like(x), "b": jnp.zeros_like(x).reshape(8, 3, 2)}
    z, r = equilibrium(
        cell,
        z0,
        (weight, x),
        solver=solver,
        adjoint=adjoint,
        adjoint_probe=probe,
        outer_gradient=lambda z: jax.tree.map(lambda z: 2 * z, z),
        sample_at=(2, 5),
    )
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(z)), r


def problem():
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(6, 6)) / 8, rng.normal(size=(8, 6))
    return jnp.asarray(weight), jnp.asarray(x), jnp.zeros((8, 2))


TIGHT = {"max_steps": 60, "tol": 1e-10}
SLOW_CASES = [
    (Anderson(**TIGHT), Exact(Anderson(**TIGHT)), 4),
    (Picard(**TIGHT), Phantom(), 1),
    (Broyden(max_steps=200, tol=1e-10, memory=150), Neumann(20, 1.0), 4),
    (
        Broyden(**TIGHT, memory=8, when_full="overwrite", stop_scope="batch"),
        Exact(Broyden(**TIGHT, memory=5)),
        4,
    ),
    (Broyden(max_steps=6, tol=0.0), Shine(refine=3, opa_every=2), 4),
]
SLOW_CASES = [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES]


@pytest.mark.parametrize(
    ("solver", "adjoint", "devices"),
    [(Broyden(**TIGHT), Exact(Broyden(**TIGHT)), 4), *SLOW_CASES],
    ids=repr,
)
def test_values_and_gradients_are_those_without_a_mesh(x64, solver, adjoint, devices):
    slope = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    slope = jax.jit(slope, static_argnames=("solver", "adjoint"))
    expected = slope(*problem(), solver, adjoint)
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    weight, x, probe = problem()
    weight = jax.device_put(weight, NamedSharding(mesh, PartitionSpec()))
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    for in_context in (contextlib.nullcontext, lambda: jax.set_mesh(mesh)):
        with in_context():
            found = slope(weight, x, probe, solver, adjoint)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
                (found[0][0], found[0][1].z, found[1][:2]),
                (expected[0][0], expected[0][1].z, expected[1][:2]),
            )
            assert jax.typeof(found[0][1].z["b"]).sharding.spec[0] == "data"


def test_vmap_over_a_sharded_axis(x64):
    weight, x, _ = problem()
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])

    def of_sample(x, weight):
        f = lambda z, x: jnp.tanh(z @ weight + x[None])  # noqa: E731
        z, _ = equilibrium(f, jnp.zeros((1, 6)), x, solver=Broyden(**TIGHT))
        return (z**2).sum()

    slope = jax.jit(jax.vmap(jax.grad(of_sample), in_axes=(0, None)))
    expected = slope(x, weight)
    with jax.set_mesh(mesh):
        found = slope(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))), weight)
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_vmap_over_an_axis_beside_the_sharded_one(x64):
    _, x, _ = problem()
    solver = Broyden(**TIGHT)
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    f = lambda z, x: jnp.tanh(0.5 * z) + x  # noqa: E731

    @jax.jit
    def of_all(x):
        of_one = lambda factor: equilibrium(f, jnp.zeros_like(x), factor * x, solver=solver)  # noqa: E731
        z, r = jax.vmap(of_one)(jnp.arange(3.0))
        return z, r.steps, r.trace

    expected = of_all(x)
    found = of_all(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), found, expected)


@pytest.mark.slow
def test_a_solve_outside_jit_and_states_sharded_along_other_axes(x64):
    _, x, _ = problem()
    solver = Broyden(**TIGHT)
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    f = lambda z, x: jnp.tanh(0.5 * z) + x  # noqa: E731
    expected = solve(f, jnp.zeros_like(x), x, solver).z
    for spec in (PartitionSpec("data"), PartitionSpec(None, "data")):
        sharded = jax.device_put(x, NamedSharding(mesh, spec))
        found = solve(f, jnp.zeros_like(sharded), sharded, solver).z
        np.testing.assert_allclose(found, expected, atol=1e-8)
