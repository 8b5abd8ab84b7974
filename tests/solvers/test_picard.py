"""Picard iteration."""

import jax.numpy as jnp
import maps
import numpy as np
import pytest

from mdeq_jax.solvers import Picard, iterate


@pytest.mark.parametrize("damping", [1.0, 0.3])
def test_iterates(x64, damping):
    args, _ = maps.random_affine()
    z0 = np.random.default_rng(2).normal(size=(4, 6))
    solver = Picard(max_steps=7, tol=0, stop_mode="abs", damping=damping)
    r, memory, *_ = iterate(maps.affine, z0, args, solver)
    assert memory == ()
    z, trace = z0, []
    for _ in range(7):
        z = (1 - damping) * z + damping * np.asarray(maps.affine(z, args))
        trace.append(np.linalg.norm(maps.affine(z, args) - z, axis=1))
    np.testing.assert_allclose(r.z, z, rtol=1e-12)
    np.testing.assert_allclose(r.trace, trace, rtol=1e-12)


def test_damping_reaches_what_plain_iteration_does_not(x64):
    """Eigenvalue −1.5 of J becomes 1 − 2.5 · damping."""
    z0 = jnp.ones((1, 1))
    plain, damped = (
        maps.run(lambda z, _: 2 - 1.5 * z, z0, None, Picard(60, 1e-10, damping=damping))
        for damping in (1.0, 0.5)
    )
    assert not plain.converged[0]
    assert damped.converged[0]
    np.testing.assert_allclose(damped.z, 0.8, rtol=1e-9)
