"""`solve`: what a step is, what ends a solve, and which iterate it returns."""

import functools

import jax
import jax.numpy as jnp
import maps
import numpy as np
import pytest
from maps import run

from mdeq_jax.solvers import Anderson, Broyden, Picard, solve


def test_steps_residual_and_trace_by_hand():
    """f = z/2 from 1, 1/4 and 0: the absolute residual after step k is z0 / 2^(k+1)."""
    z0 = jnp.array([[1.0], [0.25], [0.0]])
    r = run(lambda z, _: z / 2, z0, None, Picard(max_steps=6, tol=2**-5, stop_mode="abs"))
    np.testing.assert_array_equal(r.steps, [4, 2, 0])
    np.testing.assert_array_equal(r.z, [[2**-4], [2**-4], [0]])
    np.testing.assert_array_equal(r.residual, [2**-5, 2**-5, 0])
    trace = [[2**-2, 2**-3, 2**-4, 2**-5, 2**-5, 2**-5], [2**-4] + [2**-5] * 5, [0] * 6]
    np.testing.assert_array_equal(r.trace.T, trace)
    assert r.converged.all()
    assert r.steps.dtype == jnp.int32


def test_n_steps_take_n_plus_1_evaluations():
    calls = []

    def count(z):
        calls.append(z)
        return np.asarray(z)

    def f(z, _):
        z = jax.pure_callback(count, jax.ShapeDtypeStruct(z.shape, z.dtype), z)
        return jnp.cos(z)

    r = run(f, jnp.array([[0.3], [1.0]]), None, Broyden(max_steps=60, tol=1e-5))
    assert r.converged.all()
    assert len(calls) == r.steps.max() + 1


@pytest.mark.parametrize("mode", ["rel", "abs"])
def test_residual_is_that_of_the_returned_state(x64, mode):
    args, _ = maps.random_affine(radius=0.95)
    solver = Broyden(max_steps=5, tol=1e-9, stop_mode=mode)
    r = run(maps.affine, jnp.zeros((4, 6)), args, solver)
    fz = maps.affine(r.z, args)
    expected = np.linalg.norm(fz - r.z, axis=1)
    if mode == "rel":
        expected /= np.linalg.norm(fz, axis=1)
    np.testing.assert_allclose(r.residual, expected, rtol=1e-12)
    np.testing.assert_array_equal(r.converged, r.residual <= 1e-9)
    assert not r.converged.any()


def test_each_sample_returns_its_best_iterate():
    """The start, entry 0 of the table, is none of them."""
    table = jnp.array([[3.0, 2, 1, 5], [1, 2, 3, 4], [4, 1, 2, 0], [2, 1, 1, 2]])
    solver = Picard(max_steps=3, tol=0, stop_mode="abs")
    r = run(maps.scripted, jnp.zeros((4, 2)), table, solver)
    np.testing.assert_array_equal(r.z[:, 0], [2, 1, 3, 1])  # of equals the first
    np.testing.assert_array_equal(r.z[:, 1], [5, 1, 7, 2])
    np.testing.assert_array_equal(r.best_step, [2, 1, 3, 1])
    np.testing.assert_allclose(r.residual, np.hypot(1, table[:, 1:].min(axis=1)), rtol=1e-6)
    np.testing.assert_allclose(r.trace.T, np.hypot(1, table[:, 1:]), rtol=1e-6)
    np.testing.assert_array_equal(r.steps, 3)
    assert not r.converged.any()


@pytest.mark.parametrize(("kind", "mode"), [(Picard, "rel"), (Anderson, "abs"), (Broyden, "rel")])
def test_the_start_is_returned_if_it_has_converged_or_no_step_is_finite(kind, mode):
    fixed, lost = jnp.array([[0.5, 0.5]]), jnp.array([[0.0, 0.0]])
    f = lambda z, _: jnp.where(z == 0, 1.0, jnp.where(z == 0.5, z, jnp.nan))  # noqa: E731
    r = run(f, jnp.concatenate([fixed, lost]), None, kind(stop_mode=mode))
    np.testing.assert_array_equal(r.z, [[0.5, 0.5], [0, 0]])
    np.testing.assert_array_equal(r.steps, [0, 1])
    np.testing.assert_array_equal(r.best_step, [0, 0])
    np.testing.assert_allclose(r.residual, [0, 1 if mode == "rel" else 2**0.5])
    np.testing.assert_array_equal(r.converged, [True, False])


@pytest.mark.parametrize(
    ("kind", "scope"), [(Picard, "sample"), (Anderson, "sample"), (Broyden, "batch")]
)
def test_a_single_step_depends_on_the_arguments(kind, scope):
    """From 0 the relative residual is 1, and higher after each step of a map that expands."""
    x = jnp.array([[0.9, 2.1], [3.3, -1.2]])
    solver = kind(max_steps=8, tol=1e-6, stop_scope=scope)
    f = lambda z, x: x - 3 * jnp.abs(z) + z**2  # noqa: E731
    for limit in (1, 2, 4):
        r = run(f, jnp.zeros((2, 2)), x, solver, None, limit)
        assert (r.best_step >= 1).all()
        assert len(np.unique(r.z)) == 4


def test_step_limit():
    """A traced limit does what a smaller max_steps does, and max_steps bounds it."""
    args, _ = maps.random_affine(radius=0.99)
    z0 = np.ones((4, 6), np.float32)
    limited = functools.partial(run, maps.affine, z0, args, Broyden(max_steps=8, tol=0))
    short = run(maps.affine, z0, args, Broyden(max_steps=4, tol=0))
    np.testing.assert_allclose(limited(step_limit=4).z, short.z, rtol=1e-5)
    np.testing.assert_array_equal(limited(step_limit=4).steps, 4)
    np.testing.assert_array_equal(limited(step_limit=30).steps, 8)
    none = limited(step_limit=0)
    np.testing.assert_array_equal(none.steps, 0)
    np.testing.assert_array_equal(none.z, z0)


def test_tol_and_step_limit_do_not_recompile():
    args, _ = maps.random_affine()
    traced = []

    @jax.jit
    def limited(tol, step_limit):
        traced.append(True)
        solver = Broyden(max_steps=20, tol=1e-1)
        return solve(maps.affine, jnp.zeros((4, 6)), args, solver, tol=tol, step_limit=step_limit)

    loose, tight, cut = limited(1e-1, 20), limited(1e-4, 20), limited(1e-4, 2)
    assert len(traced) == 1
    assert (loose.residual > 1e-4).all()
    assert (tight.residual <= 1e-4).all()
    assert (loose.steps < tight.steps).all()
    assert loose.converged.all()
    assert tight.converged.all()
    assert not cut.converged.any()


@pytest.mark.parametrize("mode", ["rel", "abs"])
@pytest.mark.parametrize("start", [0.0, 3e-3, 5.0])
@pytest.mark.parametrize("excess", [0.9, 1.1])
def test_explosion_ends_a_sample(x64, mode, start, excess):
    """The residual may grow to 1e6 times the scale of the problem, whatever the first one was."""
    table = np.zeros((1, 6))
    z0 = np.array([[0.0, start]])
    scale = max(np.hypot(1, start), 1)  # of f(z0), z0 and f(z0) − z0
    table[0, 1] = excess * 1e6 * scale
    steps = run(maps.scripted, z0, table, Picard(max_steps=5, tol=0, stop_mode=mode)).steps[0]
    assert steps == (1 if excess > 1 else 5)


@pytest.mark.parametrize(("mode", "ratio"), [("rel", 1e3), ("abs", 1e6)])
@pytest.mark.parametrize("excess", [0.9, 1.1])
def test_explosion_of_a_batch_is_measured_against_its_first_residual(x64, mode, ratio, excess):
    """From y, one step to −r: the residual of z = (1, −r) against that of (0, y) is set exactly."""
    solver = Picard(max_steps=5, tol=0, stop_mode=mode, stop_scope="batch")
    if mode == "abs":
        table = jnp.array([[0.0, excess * ratio, 0, 0, 0, 0]])
        z0 = jnp.zeros((1, 2))
    else:  # first residual 1/norm((1, y)); then that of (1, y) with fz = (2, 0)
        y = np.sqrt(2 * excess * ratio)
        table = jnp.array([[0.0, -y, 0, 0, 0, 0]])
        z0 = jnp.array([[0.0, y]])
    steps = run(maps.scripted, z0, table, solver).steps[0]
    assert steps == (1 if excess > 1 else 5)


def vanishing(z, _):
    """A map of its own for each sample; the second and the third are the same from two starts."""
    relu = lambda z: jnp.maximum(1 - 2 * z, 0)  # noqa: E731
    return jnp.stack([2 - z[0], relu(z[1]), relu(z[2]), 0.5 * z[3] ** 2, 0 * z[4]])


@pytest.mark.parametrize("mode", ["rel", "abs"])
@pytest.mark.parametrize("kind", [Anderson, Broyden])
def test_a_vanishing_value_is_no_explosion(x64, kind, mode):
    """‖f(z)‖ is 0 on the way, or tends to it; a relative residual then is large, or stays at 1."""
    z0 = np.repeat([[0.0], [0.0], [1.0], [0.9], [0.7]], 4, axis=1)
    fixed_points = np.array([1.0, 1 / 3, 1 / 3, 0.0, 0.0])
    r = run(vanishing, z0, None, kind(max_steps=60, tol=1e-4, stop_mode=mode))
    np.testing.assert_allclose(r.z, np.repeat(fixed_points[:, None], 4, axis=1), atol=1e-3)
    assert jnp.isfinite(r.trace).all()
    assert r.converged[(fixed_points > 0) | (mode == "abs")].all()


@pytest.mark.parametrize("mode", ["rel", "abs"])
@pytest.mark.parametrize("distance", [1e-2, 1e-6, 1e-9])
def test_a_warm_start_may_take_the_way_of_a_cold_one(x64, mode, distance):
    """Linear maps that expand, each of which Broyden's method solves within twice its dimension."""
    args, fixed_points = maps.random_affine(size=64, dim=20, radius=5.0)
    solver = Broyden(max_steps=60, tol=1e-11, stop_mode=mode)
    away = np.random.default_rng(5).normal(size=fixed_points.shape)
    for z0 in (np.zeros_like(fixed_points), fixed_points + distance * away):
        r = run(maps.affine, z0, args, solver)
        assert r.converged.all()
        np.testing.assert_allclose(r.z, fixed_points, atol=1e-7)


def scaled_cosine(z, c):
    return c * jnp.cos(z / c)


@pytest.mark.parametrize("mode", ["rel", "abs"])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-12, 1e-6, 1e12, 1e25])
def test_scaling_a_problem_scales_its_solution(scale, mode):
    """c f(z / c) has the same steps, and the same relative residuals, for every c."""
    scale = 2.0 ** round(np.log2(scale))  # which rounds nothing
    tol = 2.0**-10 * (scale if mode == "abs" else 1)
    solver, z0 = Picard(stop_mode=mode), jnp.zeros((2, 3))
    unscaled = run(scaled_cosine, z0, jnp.float32(1), solver, jnp.float32(2.0**-10))
    scaled = run(scaled_cosine, z0, jnp.float32(scale), solver, jnp.float32(tol))
    assert scaled.converged.all()
    np.testing.assert_array_equal(scaled.steps, unscaled.steps)
    np.testing.assert_allclose(scaled.z / scale, unscaled.z, rtol=1e-6)
    expected = unscaled.residual * (scale if mode == "abs" else 1)
    np.testing.assert_allclose(scaled.residual, expected, rtol=1e-4)


def stalls_at(residuals, tol):
    """First step past 30 at which the last 30 residuals are flat and near tol, else the last."""
    for step in range(31, len(residuals)):
        window = residuals[step - 29 : step + 1]
        if residuals[step] < 3 * tol and max(window) < 1.3 * min(window):
            return step
    return len(residuals) - 1


def test_stall_ends_a_sample(x64):
    k = np.arange(46)
    table = np.stack(
        [
            np.full(46, 2.0),  # flat within reach
            np.full(46, 4.0),  # flat out of reach
            2.0 + 4.0 * (k < 8),  # flat from step 8 on
            2.5 * 1.5 ** (-k / 30),  # falling
            2.0 + 1e3 * (k == 10),  # a bump that the window has to leave behind
        ]
    )
    residuals = np.hypot(1, table)
    tol = 0.8
    r = run(maps.scripted, jnp.zeros((5, 2)), jnp.asarray(table), Picard(45, tol, "abs"))
    expected = [stalls_at(row, tol) for row in residuals]
    assert expected == [31, 45, 37, 45, 40]
    np.testing.assert_array_equal(r.steps, expected)


@pytest.mark.parametrize("rate", [0.995, 0.999])
@pytest.mark.parametrize("mode", ["rel", "abs"])
def test_slow_convergence_is_no_stall(mode, rate):
    f = lambda z, _: rate * z + (1 - rate)  # noqa: E731
    r = run(f, jnp.zeros((1, 3)), None, Picard(max_steps=8000, tol=1e-4, stop_mode=mode))
    assert r.converged.all()
    assert r.steps[0] > 500


def test_a_batch_stalls_by_the_rule_of_the_originals():
    """There a residual that falls by less than 1.3 times in 30 steps has stalled."""
    f = lambda z, _: 0.995 * z + 0.005  # noqa: E731
    solver = Picard(max_steps=5000, tol=1e-4, stop_scope="batch")
    r = run(f, jnp.zeros((1, 3)), None, solver)
    assert not r.converged.any()
    assert r.residual[0] < 3e-4


def test_no_stall_within_30_steps():
    table = jnp.full((1, 31), 2.0)
    r = run(maps.scripted, jnp.zeros((1, 2)), table, Picard(30, 0.8, "abs"))
    assert r.steps[0] == 30
