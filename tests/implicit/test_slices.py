"""States sampled for fixed-point correction: of one solve, or of slices that follow each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import assert_slopes, layer, random_args, start
from jax.sharding import AxisType, PartitionSpec

from mdeq_jax.implicit import DEQ, Exact, Phantom, Unrolled
from mdeq_jax.implicit.unrolled import unroll
from mdeq_jax.solvers import Anderson, Broyden, Picard, Status, solve

PHANTOM = Phantom(2, 0.7)
SAMPLE_AT = (2, 5)


def linear(z, args):
    weight, bias = args
    return z @ weight + bias


def linear_problem():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 4))
    weight *= 0.8 / np.linalg.norm(weight, ord=2)  # each step lowers the residual
    return weight, rng.normal(size=(3, 4))


def plain(z, args, steps):
    for _ in range(steps):
        z = linear(z, args)
    return z


def damped(z, args, f=linear):
    for _ in range(PHANTOM.steps):
        z = z + PHANTOM.damping * (f(z, args) - z)
    return z


def states_by_algebra(args, sampling):
    """The sampled states and the last one, of plain iteration over 9 steps."""
    z, sampled = np.zeros((3, 4)), []
    for steps in np.diff((0, *SAMPLE_AT)):
        z = plain(z, args, steps)
        sampled.append(damped(z, args))
        z = sampled[-1] if sampling == "slice" else z
    return sampled, plain(z, args, 9 - SAMPLE_AT[-1])


@pytest.mark.parametrize("sampling", ["index", "slice"])
def test_a_linear_problem_against_dense_algebra(x64, sampling):
    args = linear_problem()
    solver = Picard(max_steps=9, tol=0.0, stop_mode="abs")
    deq = DEQ(solver, sample_at=SAMPLE_AT, phantom=PHANTOM, sampling=sampling)
    solution = jax.jit(lambda args: deq(linear, jnp.zeros((3, 4)), args))(args)
    sampled, z = states_by_algebra(args, sampling)
    np.testing.assert_allclose(solution.sampled, sampled, rtol=1e-12)
    np.testing.assert_allclose(solution.z, z, rtol=1e-12)
    r = solution.result
    np.testing.assert_array_equal(r.steps, 9)
    np.testing.assert_array_equal(r.best_step, 9)
    np.testing.assert_array_equal(r.status, Status.STEP_LIMIT)
    before = [np.zeros((3, 4)), *sampled] if sampling == "slice" else [np.zeros((3, 4))]
    lengths = np.diff((0, *SAMPLE_AT, 9)) if sampling == "slice" else [9]
    trace = [
        np.linalg.norm(plain(z, args, k + 2) - plain(z, args, k + 1), axis=1)
        for z, steps in zip(before, lengths, strict=True)
        for k in range(steps)
    ]
    np.testing.assert_allclose(r.trace, trace, rtol=1e-9)
    np.testing.assert_allclose(r.residual, trace[-1], rtol=1e-9)


@pytest.mark.parametrize(
    ("sampling", "solver"), [("index", Anderson(9, 0.0)), ("slice", Broyden(9, 0.0))]
)
def test_gradients(x64, sampling, solver):
    """A sampled state has the slopes of its damped steps; the equilibrium has the adjoint's."""
    args, exact = random_args(), Exact(Broyden(60, 1e-13))
    deq = DEQ(solver, exact, SAMPLE_AT, PHANTOM, sampling)
    limited = jax.jit(lambda z, steps: solve(layer, z, args, solver, step_limit=steps).z)
    z, results = start(args), []
    for steps, length in zip(SAMPLE_AT, np.diff((0, *SAMPLE_AT)), strict=True):
        z = limited(z, length if sampling == "slice" else steps)
        results.append(z)
        z = damped(z, args, layer) if sampling == "slice" else start(args)

    @jax.jit
    def values_and_gradients(args):
        def sines(args):
            solution = deq(layer, start(args), args)
            return [jnp.sin(z).sum() for z in (*solution.sampled, solution.z)], solution.z

        values, pullback, z = jax.vjp(sines, args, has_aux=True)
        return values, [pullback(list(row))[0] for row in jnp.eye(3)], z

    values, gradients, z = values_and_gradients(args)
    from_there = jax.jit(lambda args, z: jnp.sin(damped(z, args, layer)).sum())
    for value, gradient, before in zip(values, gradients, results, strict=False):
        np.testing.assert_allclose(value, from_there(args, before), rtol=1e-9)
        assert_slopes(lambda args, before=before: from_there(args, before), gradient, args)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)  # noqa: E731
    jax.tree.map(close, gradients[-1], jax.jit(pulled_at)(args, z))


def pulled_at(args, z):
    """Return u ∂f/∂args with u = u J + cos z, at a z that need not be a fixed point."""
    by_row = jax.vmap(jax.jacobian(lambda z, x: layer(z[None], {**args, "x": x[None]})[0]))
    difference = jnp.eye(z.shape[1])[None] - by_row(z, args["x"])
    u = jnp.linalg.solve(difference.swapaxes(1, 2), jnp.cos(z)[..., None])[..., 0]
    return jax.vjp(lambda args: layer(z, args), args)[1](u)[0]


def test_the_step_limit_is_of_all_slices(x64):
    args = linear_problem()
    deq = DEQ(Picard(9, 0.0, "abs"), None, SAMPLE_AT, PHANTOM, "slice")
    limited = jax.jit(lambda n: deq(linear, jnp.zeros((3, 4)), args, step_limit=n))
    for limit in (0, 2, 3, 7, 20):
        solution = limited(limit)
        np.testing.assert_array_equal(solution.result.steps, min(limit, 9))
        np.testing.assert_array_equal(solution.result.status, Status.STEP_LIMIT)
        z = damped(plain(np.zeros((3, 4)), args, min(limit, 2)), args)
        z = damped(plain(z, args, np.clip(limit - 2, 0, 3)), args)
        expected = plain(z, args, np.clip(limit - 5, 0, 4))
        np.testing.assert_allclose(solution.z, expected, rtol=1e-12)


def test_each_slice_stops_at_the_tolerance(x64):
    args = random_args()
    deq = DEQ(Broyden(60), None, (20, 40), PHANTOM, "slice")
    run = jax.jit(lambda tol: deq(layer, start(args), args, tol=tol).result)
    loose, tight = run(1e-2), run(1e-8)
    for result, tol in ((loose, 1e-2), (tight, 1e-8)):
        np.testing.assert_array_equal(result.status, Status.CONVERGED)
        assert (result.residual <= tol).all()
    assert (loose.steps < tight.steps).all()
    assert (tight.steps < 60).all()


def test_without_sampled_states_a_slice_is_the_solve(x64):
    args = random_args()
    run = jax.jit(lambda deq: deq(layer, start(args), args))
    found = [run(DEQ(Broyden(12), sampling=sampling)) for sampling in ("index", "slice")]
    jax.tree.map(np.testing.assert_array_equal, found[0].result, found[1].result)
    np.testing.assert_array_equal(found[0].z, found[1].z)


def loss_of(deq):
    def loss(args):
        solution = deq(layer, start(args), args)
        return sum(jnp.sin(z).sum() for z in (*solution.sampled, solution.z))

    return loss


def test_under_vmap(x64):
    gradient = jax.grad(loss_of(DEQ(Broyden(9, 1e-6), None, SAMPLE_AT, PHANTOM, "slice")))
    several = [random_args(seed=seed) for seed in range(2)]
    ours = jax.jit(jax.vmap(gradient))(jax.tree.map(lambda *x: jnp.stack(x), *several))
    expected = jax.tree.map(lambda *x: jnp.stack(x), *map(jax.jit(gradient), several))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)  # noqa: E731
    jax.tree.map(close, ours, expected)


def test_under_shard_map(x64):
    gradient = jax.grad(loss_of(DEQ(Picard(9, 1e-6), None, SAMPLE_AT, PHANTOM, "slice")))
    args = random_args(size=8)
    specs = {name: PartitionSpec("data" if name == "x" else None) for name in args}
    four = {"devices": jax.devices()[:4], "axis_types": (AxisType.Auto,)}
    mesh = jax.make_mesh((4,), ("data",), **four)
    sharded = jax.shard_map(gradient, mesh=mesh, in_specs=(specs,), out_specs=specs)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)  # noqa: E731
    jax.tree.map(close, jax.jit(sharded)(args), jax.jit(gradient)(args))


@pytest.mark.parametrize("sampling", ["index", "slice"])
def test_unrolled_samples_its_own_applications(sampling):
    args = random_args()
    solution = DEQ(Picard(9), Unrolled(6), SAMPLE_AT, PHANTOM, sampling)(layer, start(args), args)
    for n, z in zip(SAMPLE_AT, solution.sampled, strict=True):
        np.testing.assert_array_equal(z, unroll(layer, start(args), args, n).z)
    np.testing.assert_array_equal(solution.result.steps, 6)


def test_bad_sampling():
    with pytest.raises(ValueError, match=r"DEQ\.sampling is 'slices'; it must be 'index' or 's"):
        DEQ(sampling="slices")
    args = random_args()
    for sample_at in [(9,), (0, 3), (4, 4)]:
        deq = DEQ(Picard(9), sample_at=sample_at, sampling="slice")
        with pytest.raises(ValueError, match=r"from 1 to max_steps − 1, which is 8"):
            deq(layer, start(args), args)
