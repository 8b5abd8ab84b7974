"""Broyden's method against the dense update of textbooks."""

import jax
import jax.numpy as jnp
import maps
import numpy as np
import pytest

from mdeq_jax.solvers import Broyden, Point, broyden, iterate


def dense_broyden(f, z, steps, restart):
    """Iterates of good Broyden for one sample, with the inverse Jacobian as a matrix.

    H ← H + (s − H y) sᵀH / (sᵀH y), from H = −I at the start and at every restart.
    """
    iterates, g = [z], f(z) - z
    for k in range(steps):
        if k % restart == 0:
            inverse = -np.eye(len(z))
        s = -inverse @ g
        z = z + s
        g, before = f(z) - z, g
        y = g - before
        inverse = inverse + np.outer(s - inverse @ y, s @ inverse) / (s @ inverse @ y)
        iterates.append(z)
    return np.stack(iterates)


@pytest.mark.parametrize("memory", [None, 1, 4, 12])
def test_history_of_steps_equals_the_dense_inverse(x64, memory):
    z0, (weight, x) = maps.random_tanh_layer()
    solver = Broyden(max_steps=14, memory=memory)
    iterates = maps.propose_iterates(maps.tanh_layer, z0, (weight, x), solver, 14)
    for b in range(3):
        expected = dense_broyden(
            lambda z, b=b: np.tanh(z @ weight + x[b]), z0[b], 14, restart=memory or 14
        )
        np.testing.assert_allclose(iterates[:, b], expected[1:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("memory", [None, 3])
def test_solve_follows_the_dense_inverse(x64, memory):
    """The trace of the whole solve, on a pytree whose inner products run over both leaves."""
    z0, (weight, x) = maps.random_tanh_cell()
    solver = Broyden(max_steps=10, tol=0, stop_mode="abs", memory=memory)
    r = maps.run(maps.tanh_cell, z0, (weight, x), solver)
    for b in range(5):
        f = lambda z, b=b: np.tanh(z @ np.asarray(weight) + np.asarray(x[b]))  # noqa: E731
        iterates = dense_broyden(f, np.zeros(8), 10, restart=memory or 10)
        residuals = np.linalg.norm([f(z) - z for z in iterates], axis=1)
        np.testing.assert_allclose(r.trace[:, b], residuals[1:], rtol=1e-8, atol=1e-9)
        best = iterates[residuals.argmin()]
        flat = np.concatenate([r.z["a"][b], r.z["b"][b].ravel()])
        np.testing.assert_allclose(flat, best, rtol=0, atol=1e-9)


@pytest.mark.parametrize("memory", [None, 7, 10])
def test_blocks_of_rows_are_one_history(x64, monkeypatch, memory):
    """Blocks of 3 rows, full and half full, before and after a restart."""
    monkeypatch.setattr(broyden, "_BLOCK", 3)
    args, fixed_points = maps.random_affine(dim=9, radius=3.0)
    solver = Broyden(max_steps=15, tol=0, memory=memory)
    z0 = np.zeros_like(fixed_points)
    propose = maps.propose_iterates.__wrapped__
    iterates = jax.jit(lambda: propose(maps.affine, z0, args, solver, 15))()
    for b in range(4):
        matrix, offset = (np.asarray(x[b]) for x in args)
        expected = dense_broyden(
            lambda z, matrix=matrix, offset=offset: matrix @ z + offset,
            z0[b],
            15,
            restart=memory or 15,
        )
        np.testing.assert_allclose(iterates[:, b], expected[1:], rtol=1e-6, atol=1e-6)


def resting_at(z, k=0):
    """A point with the residual 0 at z = 0, for the shapes."""
    return Point(z, z, k, lambda z: z)


@pytest.mark.parametrize("rows", [100, 300, 3000])
def test_systems_take_memory_in_proportion_to_the_rows(rows):
    history = Broyden(max_steps=rows).init(resting_at(jnp.zeros((2, 10))))
    assert sum(x.size for x in jax.tree.leaves(history)) <= 2 * (rows + 64) * (10 + 2 * 128 + 2)


def test_a_step_multiplies_no_matrix_of_all_rows():
    """Ten times the room takes no more arithmetic for one block."""

    def flops(rows):
        solver = Broyden(max_steps=rows)
        z = jnp.zeros((2, 10))
        step = jax.jit(lambda memory, k: solver.propose(memory, resting_at(z, k)))
        return step.lower(solver.init(resting_at(z)), 3).compile().cost_analysis()["flops"]

    assert flops(3000) < 1.5 * flops(300)


def dense_broyden_of_pairs(f, z, steps, rows):
    """Iterates of good Broyden for one sample whose inverse is −I and the last pairs (u, v)."""
    iterates, g, pairs = [z], f(z) - z, []
    for _ in range(steps):
        inverse = -np.eye(len(z)) + sum(np.outer(u, v) for u, v in pairs)
        s = -inverse @ g
        z = z + s
        g, before = f(z) - z, g
        v, y = s @ inverse, g - before
        pairs = [*pairs, ((s - inverse @ y) / (v @ y), v)][-rows:]
        iterates.append(z)
    return np.stack(iterates)


@pytest.mark.parametrize("memory", [1, 3, 20])
def test_a_full_memory_may_forget_its_oldest_pair(x64, memory):
    z0, (weight, x) = maps.random_tanh_layer()
    solver = Broyden(max_steps=12, memory=memory, when_full="overwrite")
    iterates = maps.propose_iterates(maps.tanh_layer, z0, (weight, x), solver, 12)
    for b in range(3):
        expected = dense_broyden_of_pairs(
            lambda z, b=b: np.tanh(z @ weight + x[b]), z0[b], 12, rows=memory
        )
        np.testing.assert_allclose(iterates[:, b], expected[1:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("when_full", ["restart", "overwrite"])
def test_few_rows_solve_as_well(when_full):
    args, fixed_points = maps.random_affine(size=8, dim=20, radius=0.9)
    args = jax.tree.map(lambda x: x.astype(jnp.float32), args)
    z0 = jnp.zeros((8, 20))
    r = maps.run(maps.affine, z0, args, Broyden(60, 1e-4, memory=5, when_full=when_full))
    assert r.converged.all()
    np.testing.assert_allclose(r.z, fixed_points, atol=1e-2)


def test_a_linear_problem_ends_within_twice_its_dimension(x64):
    """Gay, "Some convergence properties of Broyden's method", SIAM J. Numer. Anal. 1979."""
    args, fixed_points = maps.random_affine(dim=4, radius=3.0)
    r = maps.run(maps.affine, np.zeros((4, 4)), args, Broyden(tol=1e-9, stop_mode="abs"))
    assert r.converged.all()
    assert (r.steps <= 8).all()
    np.testing.assert_allclose(r.z, fixed_points, atol=1e-7)


@pytest.mark.parametrize(("memory", "rows"), [(None, 9), (4, 4), (10, 10)])
def test_memory_is_one_row_per_step(memory, rows):
    z = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 5, 1))}
    history = Broyden(max_steps=9, memory=memory).init(resting_at(z))
    assert [leaf.shape for leaf in history.steps.leaves] == [(2, rows, 3), (2, rows, 5)]
    assert history.coefficients.shape == (2, rows, rows)


def test_products_of_steps_are_as_accurate_as_their_bound():
    """Here much cancels in late steps, so products that follow from others alone would be lost."""
    args, _ = maps.random_affine(dim=12, radius=3.0)
    solver = Broyden(max_steps=20, tol=0)
    history = jax.jit(lambda: iterate(maps.affine, jnp.zeros((4, 12)), args, solver).memory)()
    steps = np.asarray(history.steps.leaves[0], np.float64)
    gram = np.einsum("bid,bjd->bij", steps, steps)
    lengths = np.sqrt(np.einsum("bii->bi", gram))
    earlier = np.tri(20, k=-1, dtype=bool)
    error = np.abs(history.gram - gram) / lengths[:, None, :] / np.finfo(np.float32).eps
    assert (error <= 12 * history.errors[..., None])[:, earlier].all()  # 12 terms
    assert (history.errors <= 1001 * lengths).all()
    assert (history.errors > 100 * lengths).any()


def test_a_step_of_length_0_is_no_division_by_0():
    """A sample that starts at its fixed point steps nowhere while the other goes on."""
    solver = Broyden(max_steps=12, tol=1e-6)
    z0 = jnp.array([[0.0, 0.0], [3.0, 1.0]])
    r, memory, *_ = jax.jit(lambda z0: iterate(lambda z, _: jnp.sin(z) / 2, z0, None, solver))(z0)
    np.testing.assert_array_equal(r.steps > 0, [False, True])
    np.testing.assert_array_equal(r.z[0], 0)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(memory))
