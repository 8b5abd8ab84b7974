"""Equilibria of a noisy iteration: the gradients, and the numbers of slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, layer, random_args, start
from jax.sharding import AxisType, PartitionSpec

from mdeq_jax.implicit import DEQ, Exact, Phantom, Unrolled, equilibrium
from mdeq_jax.solvers import Picard, sample_keys, solve

KEY = jax.random.key(7)
NOISY = Picard(max_steps=9, tol=0.0, stop_mode="abs", noise=0.05)


def gradient_at(z, args):
    """The adjoint's gradient of Σ sin(z) at a state z that need not be a fixed point."""

    def loss(args):
        found = equilibrium(layer, z, args, solver=TIGHT, adjoint=Exact(TIGHT), step_limit=0)[0]
        return jnp.sin(found).sum()

    return jax.jit(jax.grad(loss))(args)


def close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


def test_exact_gradients_have_no_noise_of_their_own(x64):
    args = random_args()
    key = sample_keys(KEY, start(args))

    def loss(args, key):
        z, _ = equilibrium(layer, start(args), args, solver=NOISY, adjoint=Exact(TIGHT), key=key)
        return jnp.sin(z).sum()

    z = jax.jit(lambda key: solve(layer, start(args), args, NOISY, key=key).z)(key)
    close(jax.jit(jax.grad(loss))(args, key), gradient_at(z, args), rtol=1e-9)


def test_the_adjoint_by_default(x64):
    """It is the noisy solver without its noise."""
    args = random_args()
    slope = jax.jit(jax.grad(lambda a, deq: deq(layer, start(a), a, key=KEY).z.sum()))
    slopes = [slope(args, DEQ(NOISY, a)) for a in (None, Exact(NOISY.without_noise()))]
    close(*slopes, rtol=0)


def test_phantom_gradients(x64):
    args, phantom = random_args(), Phantom(2, 0.7)
    z0 = jax.jit(lambda: solve(layer, start(args), args, NOISY, key=KEY).z)()

    def loss(args):
        z, _ = equilibrium(layer, start(args), args, solver=NOISY, adjoint=phantom, key=KEY)
        return z.sum()

    found = jax.jit(jax.grad(loss))(args)
    close(found, jax.grad(lambda args: phantom.unroll(layer, z0, args).sum())(args), rtol=1e-9)


@pytest.mark.slow
def test_second_derivatives(x64):
    """The noise is so small that the derivatives are those without noise."""
    args = random_args(size=2, dim=3)

    def force(x, solver, key):
        def energy(x):
            given = {**args, "x": x}
            options = {"solver": solver, "adjoint": Exact(TIGHT), "key": key}
            return jnp.sin(3 * equilibrium(layer, start(given), given, **options)[0]).sum()

        return jnp.sum(jax.grad(energy)(x) ** 2)

    slope = jax.jit(jax.grad(force))
    found = slope(args["x"], Picard(200, 1e-13, noise=1e-9), KEY)
    close(found, slope(args["x"], TIGHT, None), rtol=1e-5)


def slices(args, key):
    deq = DEQ(NOISY, Exact(TIGHT), (2, 5), Phantom(1, 1.0), "slice")
    return deq(layer, start(args), args, key=key)


def test_each_slice_draws_other_numbers(x64):
    """With f(z) = z + 1 each slice adds its length and the sum of its own draws."""
    solver, phantom = Picard(2, 0.0, "abs", noise=1.0), Phantom(1, 1.0)
    deq = DEQ(solver, phantom, (1,), phantom, "slice")
    solution = jax.jit(lambda: deq(lambda z, _: z + 1, jnp.zeros((9, 50)), None, key=KEY))()
    first, second = solution.sampled[0], solution.z - solution.sampled[0]
    assert abs(first.var() - 1) < 4 * (2 / 450) ** 0.5
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / 450**0.5


@pytest.mark.slow
def test_sampled_states_under_vmap_and_shard_map(x64):
    args = random_args(size=8)
    keys = sample_keys(KEY, start(args))

    def gradient(args, keys):
        def loss(args):
            solution = slices(args, keys)
            return sum(jnp.sin(z).sum() for z in (*solution.sampled, solution.z))

        return jax.grad(loss)(args)

    expected = jax.jit(gradient)(args, keys)
    axes = {name: 0 if name == "x" else None for name in args}
    halves = {**args, "x": args["x"].reshape(2, 4, -1)}
    mapped = jax.jit(jax.vmap(gradient, (axes, 0)))(halves, keys.reshape(2, 4))
    close(mapped["x"].reshape(args["x"].shape), expected["x"], rtol=1e-9)
    close(mapped["weight"].sum(axis=0), expected["weight"], rtol=1e-9)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    specs = {name: PartitionSpec("data" if name == "x" else None) for name in args}
    in_specs = specs, PartitionSpec("data")
    sharded = jax.shard_map(gradient, mesh=mesh, in_specs=in_specs, out_specs=specs)
    close(jax.jit(sharded)(args, keys), expected, rtol=1e-9)


def test_only_a_noisy_solve_needs_a_key():
    args = random_args()
    with pytest.raises(ValueError, match="pass key="):
        equilibrium(layer, start(args), args, solver=NOISY)
    equilibrium(layer, start(args), args, solver=NOISY, adjoint=Unrolled(2))
