"""The iterate that a solve returns, chosen by a merit of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from maps import random_tanh_layer, scripted, tanh_layer

from mdeq_jax.implicit import equilibrium
from mdeq_jax.solvers import Broyden, Picard, Status, solve

# From y = 0 iterate k has the residual hypot(1, table[:, k]); its first entry is k.
TABLE = jnp.asarray([[9.0, 5, 3, 1, 2, 4, 6, 8], [9.0, 8, 7, 6, 5, 4, 3, 2]])
ABSOLUTE = Picard(max_steps=6, tol=0.0, stop_mode="abs")


def run(merit, solver=ABSOLUTE, table=TABLE, **options):
    z0 = jnp.zeros((len(table), 2), table.dtype)
    return jax.jit(lambda t: solve(scripted, z0, t, solver, merit=merit, **options))(table)


def from_target(target):
    """A merit that is lowest after the step `target` of each sample."""
    return lambda z, residual: jnp.abs(z[:, 0] - jnp.asarray(target, z.dtype))


def test_the_iterate_of_the_lowest_merit_is_returned():
    r = run(from_target([2, 5]))
    np.testing.assert_array_equal(r.best_step, [2, 5])
    np.testing.assert_array_equal(r.z[:, 0], [2, 5])
    np.testing.assert_allclose(r.residual, np.hypot(1, [3.0, 4.0]))
    np.testing.assert_array_equal(r.steps, 6)
    np.testing.assert_array_equal(r.status, Status.STEP_LIMIT)


def test_the_residual_as_a_merit_is_no_merit():
    ours, expected = (run(m, sample_at=(2, 4)) for m in (lambda z, residual: residual, None))
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_sampled_states_follow_the_merit():
    r = run(from_target([2, 5]), sample_at=(1, 3, 6))
    np.testing.assert_array_equal(r.states[:, :, 0], [[1, 1], [2, 3], [2, 5]])


def test_a_merit_of_residual_and_state():
    """The residual within a factor, then the latest: iterate 4 of the first sample is within it."""
    r = run(lambda z, residual: jnp.where(residual < 3, -z[:, 0], residual))
    np.testing.assert_array_equal(r.best_step, [4, 6])


def test_an_iterate_that_has_converged_is_returned_whatever_its_merit():
    solver = Picard(max_steps=6, tol=1.5, stop_mode="abs")
    r = run(from_target([1, 1]), solver)
    np.testing.assert_array_equal(r.converged, [True, False])
    np.testing.assert_array_equal(r.best_step, [3, 1])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_merits_and_residuals_that_are_not_finite_are_passed_over(bad):
    r = run(lambda z, residual: jnp.where(z[:, 0] == 2, bad, jnp.abs(z[:, 0] - 2.4)))
    np.testing.assert_array_equal(r.best_step, [3, 3])
    r = run(from_target([4, 4]), table=TABLE.at[0, 4].set(bad))
    np.testing.assert_array_equal(r.best_step, [3, 4])


def test_where_no_merit_is_finite_the_start_is_returned():
    r = run(lambda z, residual: jnp.full_like(residual, jnp.nan))
    np.testing.assert_array_equal(r.best_step, 0)
    np.testing.assert_allclose(r.residual, np.hypot(1, 9.0))


def test_under_vmap():
    """Each lane has a merit of its own, and its own arguments."""

    def lane(target, table):
        merit = from_target(target)
        return solve(scripted, jnp.zeros((2, 2)), table, ABSOLUTE, merit=merit, sample_at=(3,))

    targets, tables = jnp.asarray([[2.0, 5.0], [1.0, 4.0]]), jnp.stack([TABLE, TABLE[::-1]])
    ours = jax.jit(jax.vmap(lane))(targets, tables)
    one = jax.jit(lane)
    expected = [one(*x) for x in zip(targets, tables, strict=True)]
    jax.tree.map(
        np.testing.assert_array_equal, ours, jax.tree.map(lambda *x: jnp.stack(x), *expected)
    )


def test_no_gradient_flows_through_it(x64):
    """It may close over what is differentiated, here in a solve that is cut off."""
    z0, (weight, x) = random_tanh_layer()

    def loss(weight, traced):
        merit = lambda z, residual: residual + 1e-3 * jnp.sum(z @ traced, axis=-1)  # noqa: E731
        solver = Broyden(max_steps=4, tol=0.0)
        z, _ = equilibrium(tanh_layer, z0, (weight, x), solver=solver, merit=merit)
        return jnp.sum(z**2)

    inside = jax.jit(jax.grad(lambda weight: loss(weight, weight)))(weight)
    outside = jax.jit(jax.grad(loss))(weight, weight)
    np.testing.assert_array_equal(inside, outside)


@pytest.mark.parametrize(
    "bad", [lambda z, r: z, lambda z, r: r.sum(), lambda z, r: r > 0, lambda z, r: (r, r)]
)
def test_a_merit_that_is_not_one_number_for_each_sample(bad):
    with pytest.raises(
        ValueError, match=r"merit returns .*; it must return one floating-point num"
    ):
        run(bad)
