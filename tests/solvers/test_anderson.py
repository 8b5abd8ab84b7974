"""Anderson acceleration against constrained least squares."""

import dataclasses

import jax.numpy as jnp
import maps
import numpy as np
import pytest

from mdeq_jax.solvers import Anderson, Picard


def dense_anderson(f, z, steps, solver):
    """Iterates for one sample; the weights as a Lagrange system of min ‖Σα_i g_i‖² , Σα = 1."""
    iterates, states, residuals = [], [], []
    for _ in range(steps):
        states = [*states, z][-solver.window :]
        residuals = [*residuals, f(z) - z][-solver.window :]
        gram = np.array(residuals) @ np.array(residuals).T
        size = len(gram)
        scale = np.diag(gram) if solver.ridge_mode == "relative" else np.ones(size)
        system = np.ones((size + 1, size + 1))
        system[0, 0] = 0
        system[1:, 1:] = gram + solver.ridge * np.diag(scale)
        alpha = np.linalg.solve(system, np.eye(size + 1)[0])[1:]
        z = alpha @ (np.array(states) + solver.mixing * np.array(residuals))
        iterates.append(z)
    return np.stack(iterates)


@pytest.mark.parametrize(
    "solver",
    [
        Anderson(),
        Anderson(window=3, mixing=0.6),
        Anderson(window=4, ridge=1e-3, ridge_mode="absolute"),
        Anderson(window=2, ridge=0.0),
    ],
    ids=repr,
)
def test_iterates_equal_constrained_least_squares(x64, solver):
    z0, (weight, x) = maps.random_tanh_layer()
    iterates = maps.propose_iterates(maps.tanh_layer, z0, (weight, x), solver, 10)
    for b in range(3):
        expected = dense_anderson(lambda z, b=b: np.tanh(z @ weight + x[b]), z0[b], 10, solver)
        np.testing.assert_allclose(iterates[:, b], expected, rtol=0, atol=1e-9)


def test_window_1_is_damped_picard(x64):
    args, _ = maps.random_affine()
    options = {"max_steps": 8, "tol": 0, "stop_mode": "abs"}
    ours = maps.run(maps.affine, jnp.ones((4, 6)), args, Anderson(**options, window=1, mixing=0.4))
    picard = maps.run(maps.affine, jnp.ones((4, 6)), args, Picard(**options, damping=0.4))
    np.testing.assert_allclose(ours.trace, picard.trace, rtol=1e-10)


def test_with_next_to_no_ridge_a_linear_problem_ends_in_its_dimension(x64):
    """It is GMRES then: D + 1 evaluations and the mixture of them.

    Five residuals in four dimensions have a singular Gram matrix. Whether elimination meets a pivot
    of exactly 0, and so takes a plain step, would be decided by rounding without any ridge.
    """
    args, fixed_points = maps.random_affine(dim=4, radius=0.9)
    solver = Anderson(max_steps=20, tol=1e-9, window=6, ridge=1e-14)
    r = maps.run(maps.affine, jnp.zeros((4, 4)), args, solver)
    assert (r.steps <= 5).all()
    np.testing.assert_allclose(r.z, fixed_points, atol=1e-8)


def test_relative_ridge_knows_no_units(x64):
    """f in other units, c f(z / c), has the same iterates in those units."""
    args, _ = maps.random_affine()
    scaled = (args[0], 1e-4 * args[1])
    solver = Anderson(max_steps=8, tol=0, ridge=1e-2)
    z0 = jnp.zeros((4, 6))
    for variant, alike in [
        (solver, True),
        (dataclasses.replace(solver, ridge_mode="absolute"), False),
    ]:
        z, z_scaled = (maps.run(maps.affine, z0, a, variant).z for a in (args, scaled))
        assert np.allclose(1e-4 * z, z_scaled, rtol=1e-9, atol=0) == alike


def test_a_singular_system_falls_back_to_a_plain_step(x64):
    """z + 1 leaves the same residual everywhere, so every mixture is as good as another."""

    def f(z, args):
        return jnp.concatenate([z[:1] + 1, maps.affine(z[1:], args)])

    args, _ = maps.random_affine(size=1, dim=2)
    solver = Anderson(max_steps=6, tol=1e-12, stop_mode="abs", window=3, ridge=0.0)
    iterates = maps.propose_iterates(f, np.zeros((2, 2)), args, solver, 6)
    np.testing.assert_array_equal(iterates[:, 0], np.arange(1.0, 7)[:, None] * np.ones(2))
    r = maps.run(f, np.zeros((2, 2)), args, solver)
    np.testing.assert_array_equal(r.converged, [False, True])
