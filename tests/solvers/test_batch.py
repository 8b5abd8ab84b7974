"""`solve`: each sample by itself, or the batch as one."""

import dataclasses

import jax
import jax.numpy as jnp
import maps
import numpy as np
import pytest
from maps import assert_same, every_solver, run

from mdeq_jax.solvers import Broyden, Picard, SolverResult


def take(tree, samples):
    return jax.tree.map(lambda x: x[np.array(samples)], tree)


@every_solver
def test_a_sample_alone_and_among_others(x64, kind):
    z0, (weight, x) = maps.random_tanh_cell()
    solver = kind(max_steps=400, tol=1e-10)
    together = run(maps.tanh_cell, z0, (weight, x), solver)
    assert together.converged.all()
    assert len(set(together.steps.tolist())) > 1
    for i in range(5):
        alone = run(maps.tanh_cell, take(z0, [i]), (weight, x[np.array([i])]), solver)
        assert_same(alone.z, take(together.z, [i]), atol=1e-9, rtol=0)


def test_a_finished_sample_is_frozen():
    """f sees it unchanged from its last step on, and it is what the sample returns."""
    seen = []

    def record(z):
        seen.append(np.asarray(z))
        return seen[-1]

    def f(z, args):
        z = jax.pure_callback(record, jax.ShapeDtypeStruct(z.shape, z.dtype), z)
        return maps.affine(z, args)

    args, _ = maps.random_affine(radius=0.95)
    easy = (args[0].at[0].multiply(0.05), args[1])
    r = run(f, jnp.zeros((4, 6)), easy, Broyden(max_steps=60, tol=1e-4))
    last = int(r.steps[0])
    assert 0 < last < r.steps[1:].min()
    states = np.stack(seen)[:, 0]
    assert (states[last] != states[last - 1]).any()
    np.testing.assert_array_equal(states[last:], np.tile(r.z[0], (len(seen) - last, 1)))
    np.testing.assert_array_equal(r.trace[last - 1 :, 0], r.residual[0])


def affine_until_close(z, args):
    """`affine`, and something else once a sample's residual is below a limit of its own."""
    affine_args, limit, bad = args
    fz = maps.affine(z, affine_args)
    return jnp.where((jnp.abs(z - fz).max(axis=1) < limit)[:, None], bad, fz)


@every_solver
@pytest.mark.parametrize(("bad", "when"), [(np.nan, "from the start"), (np.inf, "on the way")])
def test_a_sample_not_finite_leaves_the_others_untouched(kind, bad, when):
    args, _ = maps.random_affine()
    limit = np.float32([0, 0, np.inf if when == "from the start" else 0.3, 0])
    solver, z0 = kind(max_steps=60, tol=1e-4, stop_mode="abs"), np.zeros((4, 6), np.float32)
    whole = run(affine_until_close, z0, (args, np.zeros_like(limit), bad), solver)
    hurt = run(affine_until_close, z0, (args, limit, bad), solver)
    batch_last = [SolverResult(r.z.T, *r[1:]) for r in (hurt, whole)]
    assert_same(*(jax.tree.map(lambda x: x[..., [0, 1, 3]], r) for r in batch_last), rtol=0)
    assert not hurt.converged[2]
    assert jnp.isfinite(hurt.z[2]).all()
    assert hurt.steps[2] < whole.steps[2]
    assert (hurt.steps[2] == 0) == (when == "from the start")


@pytest.mark.parametrize("mode", ["rel", "abs"])
def test_batch_scope_takes_the_batch_for_one_sample(x64, mode):
    """Picard's iterates know no samples, so the batch as one long sample is the same problem."""
    args, _ = maps.random_affine()
    args = (args[0] * jnp.linspace(0.3, 1, 4)[:, None, None], args[1])

    def long(z, args):
        return maps.affine(z.reshape(4, 6), args).reshape(1, 24)

    solver = Picard(max_steps=40, tol=1e-4, stop_mode=mode)
    batch = dataclasses.replace(solver, stop_scope="batch")
    r = run(maps.affine, jnp.zeros((4, 6)), args, batch)
    one = run(long, jnp.zeros((1, 24)), args, solver)
    np.testing.assert_array_equal(r.steps, jnp.full(4, one.steps[0]))
    np.testing.assert_allclose(r.z.reshape(1, 24), one.z, rtol=1e-12)
    # The relative residual of the originals has 1e-9 in its denominator.
    rtol = 1e-12 if mode == "abs" else 1e-9
    np.testing.assert_allclose(r.trace, jnp.tile(one.trace, 4), rtol=rtol)
    assert len(set(run(maps.affine, jnp.zeros((4, 6)), args, solver).steps.tolist())) > 1
