"""States sampled on the way of a solve."""

import jax
import jax.numpy as jnp
import maps
import numpy as np
import pytest

from mdeq_jax.solvers import Broyden, Picard, solve


def test_they_are_what_a_solve_of_so_many_steps_returns(x64):
    z0, args = maps.random_tanh_cell()
    solver = Broyden(9, 0.0)
    result = jax.jit(lambda: solve(maps.tanh_cell, z0, args, solver, sample_at=(2, 5)))()
    for i, steps in enumerate((2, 5)):
        limited = maps.run(maps.tanh_cell, z0, args, solver, None, steps)
        state = jax.tree.map(lambda x, i=i: x[i], result.states)
        maps.assert_same(state, limited.z, atol=1e-12)


def test_a_sample_that_has_stopped_is_what_it_returns(x64):
    """Also where the whole batch has stopped before the step that was asked for."""
    slopes = jnp.array([[0.0], [0.1], [0.9]])
    solver = Picard(max_steps=200, tol=1e-6)
    f = lambda z, a: a * z + 1  # noqa: E731
    run = lambda: solve(f, jnp.zeros((3, 1)), slopes, solver, sample_at=(1, 20, 200))  # noqa: E731
    result = jax.jit(run)()
    np.testing.assert_allclose(result.states[0], [[1.0], [1.0], [1.0]])
    np.testing.assert_array_equal(result.states[1][:2], result.z[:2])
    np.testing.assert_allclose(result.states[1][2], 10 * (1 - 0.9**20))
    np.testing.assert_array_equal(result.states[2], result.z)
    assert result.steps.max() < 200


def test_the_best_iterate_so_far():
    """The map diverges from the second step on."""
    f = lambda z, _: jnp.where(abs(z) < 1.5, z + 1, 3 * z + 5)  # noqa: E731
    run = lambda: solve(f, jnp.zeros((1, 1)), None, Picard(6, 0.0), sample_at=(1, 3, 6))  # noqa: E731
    result = jax.jit(run)()
    np.testing.assert_array_equal(result.states[:, 0, 0], [1, 1, 1])


def test_none_are_kept_unless_asked_for():
    run = lambda: solve(lambda z, _: z / 2, jnp.ones((2, 3)), None, Picard())  # noqa: E731
    assert jax.eval_shape(run).states is None


@pytest.mark.parametrize("sample_at", [(0,), (3, 3), (4, 2), (9,), (1.5,), (True,), 2, "12"])
def test_numbers_that_are_no_steps(sample_at):
    with pytest.raises(ValueError, match=r"sample_at is .* from 1 to max_steps, which is 8"):
        solve(lambda z, _: z / 2, jnp.ones((2, 3)), None, Picard(8), sample_at=sample_at)
