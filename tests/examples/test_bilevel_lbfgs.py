"""L-BFGS: its estimate of the inverse Hessian, its minimum, and OPA's pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.bilevel.lbfgs import (
    OPA,
    inverse_product,
    minimize,
    no_pairs,
    opa_pair,
    push,
)

pytestmark = pytest.mark.usefixtures("x64")


def positive_definite(n, seed=0):
    factor = np.random.RandomState(seed).normal(size=(n, n))
    return factor @ factor.T + np.eye(n)


def pairs_of(hessian, steps, memory):
    pairs = no_pairs(memory, steps[0])
    for s in steps:
        pairs = push(pairs, s, hessian @ s)
    return pairs


@pytest.mark.parametrize("memory", [3, 8])
def test_two_loops_equal_the_dense_update(memory):
    hessian = positive_definite(6)
    steps = jnp.asarray(np.random.RandomState(1).normal(size=(5, 6)))
    dense = np.eye(6)
    for s in np.asarray(steps)[-memory:]:
        y = hessian @ s
        left = np.eye(6) - np.outer(s, y) / (s @ y)
        dense = left @ dense @ left.T + np.outer(s, s) / (s @ y)
    v = np.random.RandomState(2).normal(size=6)
    product = inverse_product(pairs_of(hessian, steps, memory), v)
    np.testing.assert_allclose(product, dense @ v, rtol=1e-12)


def test_conjugate_steps_bring_the_exact_inverse():
    hessian = positive_definite(7)
    # Columns conjugate with respect to the Hessian, and not orthogonal.
    steps = jnp.asarray(np.linalg.inv(np.linalg.cholesky(hessian)))
    v = np.random.RandomState(2).normal(size=7)
    product = inverse_product(pairs_of(hessian, steps, 7), v)
    np.testing.assert_allclose(product, np.linalg.solve(hessian, v), rtol=1e-10)
    too_few = inverse_product(pairs_of(hessian, steps, 6), v)
    assert np.linalg.norm(too_few - np.linalg.solve(hessian, v)) > 1e-2


def test_a_pair_of_negative_curvature_is_left_out():
    hessian = positive_definite(4)
    pairs = pairs_of(hessian, jnp.eye(4)[:2], 3)
    same = push(pairs, jnp.eye(4)[2], -jnp.eye(4)[2])
    np.testing.assert_array_equal(same.s, pairs.s)
    np.testing.assert_array_equal(same.y, pairs.y)


def test_opa_pair_has_its_norm_and_its_secant_equation_holds():
    hessian = positive_definite(6)
    v, z = np.random.RandomState(3).normal(size=(2, 6))
    pairs = pairs_of(hessian, jnp.eye(6)[:3], 8)
    before = inverse_product(pairs, v)
    at_z = hessian @ z + z**3
    e, y = opa_pair(lambda z: hessian @ z + z**3, z, at_z, pairs, v, jnp.asarray(1e-3))
    np.testing.assert_allclose(jnp.linalg.norm(e), 1e-3, rtol=1e-12)
    np.testing.assert_allclose(e / jnp.linalg.norm(e), before / jnp.linalg.norm(before))
    np.testing.assert_allclose(inverse_product(push(pairs, e, y), y), e, rtol=1e-10)
    np.testing.assert_allclose(y, (hessian + np.diag(3 * z**2)) @ e, rtol=1e-2)


def test_opa_alone_brings_the_inverse_in_its_direction():
    hessian = positive_definite(6)
    v, z = np.random.RandomState(4).normal(size=(2, 6))

    @jax.jit
    def teach(pairs):
        one = jnp.asarray(1.0)
        return push(pairs, *opa_pair(lambda z: hessian @ z, z, hessian @ z, pairs, v, one))

    pairs = no_pairs(200, z)
    for _ in range(200):
        pairs = teach(pairs)
    np.testing.assert_allclose(inverse_product(pairs, v), np.linalg.solve(hessian, v), rtol=1e-8)


@pytest.mark.parametrize(("memory", "opa"), [(3, None), (60, OPA(lambda z: z + 1, every=2))])
def test_finds_the_minimum_of_a_quadratic(memory, opa):
    hessian, target = positive_definite(8), jnp.arange(8.0)
    start = jnp.ones(8)
    pairs = no_pairs(memory, start)
    found = minimize(lambda z: hessian @ (z - target), start, pairs, tol=1e-9, opa=opa)
    assert found.converged
    assert found.gradient_norm <= 1e-9
    np.testing.assert_allclose(found.z, target, atol=1e-8)
    assert found.evaluations > found.steps > 0


def test_evaluations_are_counted():
    # From z = 1 the unit step on z²/2 is the minimum: one gradient at the start, one there.
    found = minimize(lambda z: z, jnp.ones(1), no_pairs(2, jnp.ones(1)))
    assert (found.steps, found.evaluations) == (1, 2)


def test_evaluations_for_opa_are_counted():
    hessian, calls = positive_definite(8), []

    def gradient(z):
        jax.debug.callback(calls.append, z)
        return hessian @ z

    start = jnp.ones(8)
    opa = OPA(lambda z: z + 1, every=2)
    found = minimize(gradient, start, no_pairs(9, start), max_steps=5, opa=opa)
    jax.effects_barrier()
    assert found.steps == 5
    assert found.evaluations == len(calls)


def test_steep_and_shallow_functions_need_the_line_search():
    for scale in (1e6, 1e-6):
        start = jnp.ones(1)
        found = minimize(lambda z, scale=scale: scale * z, start, no_pairs(2, start), tol=1e-9)
        assert found.converged
        assert found.evaluations > 10


def test_the_step_limit_is_data():
    start = jnp.ones(8)
    hessian = positive_definite(8)
    found = minimize(lambda z: hessian @ z, start, no_pairs(9, start), tol=1e-12, max_steps=2)
    assert found.steps == 2
    assert not found.converged


def test_errors():
    z = jnp.ones(2)
    with pytest.raises(ValueError, match="memory is 0; it must be at least 1 pair"):
        no_pairs(0, z)
    with pytest.raises(ValueError, match="max_steps is 0; it must"):
        minimize(lambda z: z, z, no_pairs(1, z), max_steps=0)
    with pytest.raises(ValueError, match=r"opa\.every is 0"):
        minimize(lambda z: z, z, no_pairs(1, z), opa=OPA(lambda z: z, every=0))
