"""Why each sample stopped."""

import dataclasses

import jax
import jax.numpy as jnp
import maps
import numpy as np
import pytest
from maps import run

from mdeq_jax.solvers import Broyden, Picard, SolverResult, Status, solve

PICARD = Picard(max_steps=45, tol=1.5, stop_mode="abs")
EXPECTED = {
    Status.CONVERGED: 2,
    Status.STEP_LIMIT: 45,
    Status.STALLED: 31,
    Status.DIVERGED: 3,
    Status.NOT_FINITE: 4,
}


def table():
    """One row of residuals for each status: (1, entry k) after step k, hypot(1, 9) at first."""
    rows = np.full((5, 46), 9.0)
    rows[Status.CONVERGED, 2] = 1.0
    rows[Status.STALLED, 1:] = 2.0  # within reach of the tolerance, but flat
    rows[Status.DIVERGED, 3] = 1e8
    rows[Status.NOT_FINITE, 4] = np.nan
    return jnp.asarray(rows)


def test_every_status_with_its_step(x64):
    r = run(maps.scripted, jnp.zeros((5, 2)), table(), PICARD)
    assert r.status.tolist() == list(EXPECTED)
    assert r.steps.tolist() == list(EXPECTED.values())
    assert (r.status.dtype, r.status.weak_type) == (jnp.int32, False)
    np.testing.assert_array_equal(r.converged, r.status == Status.CONVERGED)


def test_under_vmap_with_sampled_states(x64):
    def of_sample(row):
        return solve(maps.scripted, jnp.zeros((1, 2)), row[None], PICARD, sample_at=(1, 20))

    r = jax.jit(jax.vmap(of_sample))(table())
    assert r.status[:, 0].tolist() == list(EXPECTED)
    np.testing.assert_array_equal(r.converged, r.status == Status.CONVERGED)


def test_batches_that_stop_as_one(x64):
    solver = dataclasses.replace(PICARD, stop_scope="batch")
    for status, steps in EXPECTED.items():
        r = run(maps.scripted, jnp.zeros((1, 2)), table()[status][None], solver)
        assert (r.status[0], r.steps[0]) == (status, steps)
    r = run(maps.scripted, jnp.zeros((5, 2)), table(), solver)
    assert r.status.tolist() == [Status.DIVERGED] * 5  # the first row that stops ends all
    assert not r.converged.any()


@pytest.mark.parametrize("limit", [0, 3])
def test_the_start_and_the_step_limit(limit):
    """The start is a fixed point, its image is not finite, or the limit ends the solve."""
    f = lambda z, _: jnp.where(z == 0, 0, jnp.where(z == 1, jnp.inf, 0.9 * z))  # noqa: E731
    z0 = jnp.array([[0.0], [1.0], [2.0]])
    r = run(f, z0, None, Picard(tol=1e-3, stop_mode="abs"), step_limit=limit)
    assert r.status.tolist() == [Status.CONVERGED, Status.NOT_FINITE, Status.STEP_LIMIT]
    assert r.steps.tolist() == [0, 0, limit]


def test_a_limit_of_each_batch(x64):
    args, _ = maps.random_affine()
    of_batch = lambda n: solve(maps.affine, jnp.zeros((4, 6)), args, Broyden(), step_limit=n)  # noqa: E731
    r = jax.jit(jax.vmap(of_batch))(jnp.array([2, 30]))
    np.testing.assert_array_equal(r.status[0], Status.STEP_LIMIT)
    np.testing.assert_array_equal(r.status[1], Status.CONVERGED)


def test_words():
    assert [status.name for status in Status] == [status.name for status in EXPECTED]
    assert len({status.explanation for status in Status}) == 5
    result = SolverResult(*[jnp.zeros(1)] * 5)
    assert result.status is None
    array = jnp.array([4, 0], jnp.int32)
    assert Status(int(array[0])).explanation == "the norm of the residual overflowed or is NaN"
    np.testing.assert_array_equal(array == Status.CONVERGED, [False, True])
