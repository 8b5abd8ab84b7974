"""The adjoints: what they solve, when they stop, what they report."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, assert_slopes, dense_gradient, layer, random_args, readout, start

from mdeq_jax.implicit import (
    Adjoint,
    Cotangent,
    Exact,
    JacobianFree,
    Neumann,
    Phantom,
    Shine,
    equilibrium,
)
from mdeq_jax.solvers import Anderson, Broyden, Picard, Status


@jax.jit
def pull_back(args, g, adjoint):
    """z*, the gradient for its cotangent g, and the probe: steps and residual of the adjoint."""

    def solved(args, probe):
        options = {"solver": TIGHT, "adjoint": adjoint, "adjoint_probe": probe}
        return equilibrium(layer, start(args), args, **options)[0]

    z, pullback = jax.vjp(solved, args, jnp.zeros((len(g), 2), g.dtype))
    return z, *pullback(g)


def random_cotangent():
    return jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)))


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_exact_with_a_solver_of_its_own(x64):
    args, g = random_args(), random_cotangent()
    z, gradient, probe = pull_back(args, g, Exact(Anderson(200, 1e-12)))
    assert_trees_close(gradient, dense_gradient(np.asarray(z), g, args), atol=1e-9)
    assert (probe[:, 1] <= 1e-12).all()


def test_probe_reports_steps_and_residual(x64):
    """Cut off after 3 plain steps from 0, u = g + gJ + gJ² and the residual is ‖gJ³‖ / ‖g‖."""
    args, g = random_args(), random_cotangent()
    z, gradient, probe = pull_back(args, g, Exact(Picard(max_steps=3, tol=0)))
    _, pullback = jax.vjp(lambda z: layer(z, args), z)
    powers = [g]
    for _ in range(3):
        powers.append(pullback(powers[-1])[0])
    _, pullback_args = jax.vjp(lambda args: layer(z, args), args)
    assert_trees_close(gradient, pullback_args(sum(powers[:3]))[0], atol=1e-12)
    np.testing.assert_array_equal(probe[:, 0], 3)
    ratio = jnp.linalg.norm(powers[3], axis=1) / jnp.linalg.norm(g, axis=1)
    np.testing.assert_allclose(probe[:, 1], ratio, rtol=1e-9)


def test_probe_of_each_sample(x64):
    """Steps differ between samples, and a sample stops at the tolerance."""
    args, g = random_args(), random_cotangent()
    args["x"] = args["x"] * jnp.array([[0.01], [1.0], [10.0]])  # tanh saturates: J vanishes
    _, _, probe = pull_back(args, g, Exact(Broyden(tol=1e-6)))
    steps, residual = probe.T
    assert steps[2] < steps[0] < 30
    assert (residual <= 1e-6).all()
    assert (residual > 0).all()


@pytest.mark.parametrize("mode", ["rel", "abs"])
def test_exact_stops_relative_to_the_cotangent(x64, mode):
    args, g = random_args(), random_cotangent()
    adjoint = Exact(Broyden(tol=1e-4, stop_mode=mode))
    _, gradient, probe = pull_back(args, g, adjoint)
    assert (probe[:, 0] > 2).all()
    for scale in (1e-6, 1e6):
        _, scaled, scaled_probe = pull_back(args, scale * g, adjoint)
        np.testing.assert_array_equal(scaled_probe[:, 0], probe[:, 0])
        np.testing.assert_allclose(scaled_probe[:, 1], probe[:, 1], rtol=1e-6)
        for name in args:
            np.testing.assert_allclose(scaled[name] / scale, gradient[name], rtol=1e-7, atol=1e-12)


def test_each_sample_by_its_own_cotangent(x64):
    """A sample whose loss is weighted down is solved as well as the others, and none disturbs."""
    args, g = random_args(), random_cotangent()
    adjoint = Exact(Broyden(tol=1e-4, stop_mode="abs"))
    _, _, probe = pull_back(args, g, adjoint)
    _, _, weighted = pull_back(args, g * jnp.array([[1.0], [1e-8], [1e4]]), adjoint)
    np.testing.assert_allclose(weighted, probe, rtol=1e-6)


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_a_cotangent_of_0_gives_0_in_0_steps(x64, scope):
    args = random_args()
    adjoint = Exact(Broyden(stop_scope=scope))
    _, gradient, probe = pull_back(args, jnp.zeros((3, 5)), adjoint)
    assert_trees_close(gradient, jax.tree.map(jnp.zeros_like, args), atol=0)
    np.testing.assert_array_equal(probe, 0)
    padded = jnp.ones((3, 5)).at[1].set(0)
    _, gradient, probe = pull_back(args, padded, adjoint)
    np.testing.assert_array_equal(gradient["x"][1], 0)
    assert (gradient["x"][0] != 0).all()
    np.testing.assert_array_equal(probe[:, 0] > 0, [True, scope == "batch", True])


@pytest.mark.parametrize(("g", "status"), [(0.0, Status.CONVERGED), (1.0, Status.STEP_LIMIT)])
def test_the_adjoint_solve_says_why_it_stopped(g, status):
    found = []

    def spy(*args, **options):
        u, result = equilibrium(*args, **options)
        found.append(result)
        return u, result

    cotangent = Exact(Picard(max_steps=3)).solve(lambda u: 0.9 * u, jnp.full((2, 3), g), spy)
    np.testing.assert_array_equal(found[0].status, status)
    np.testing.assert_array_equal(cotangent.steps, 0 if g == 0 else 3)


def test_batch_scope_is_unscaled(x64):
    """For parity: the residual of the whole batch in the solver's own mode, alike for all."""
    args, g = random_args(), 1e-3 * random_cotangent()
    z, _, _ = pull_back(args, g, JacobianFree())
    _, pullback = jax.vjp(lambda z: layer(z, args), z)
    u = jnp.zeros_like(g)
    for _ in range(4):
        u = pullback(u)[0] + g
    fu = pullback(u)[0] + g
    absolute = jnp.linalg.norm(fu - u)
    for mode, expected in [("abs", absolute), ("rel", absolute / (jnp.linalg.norm(fu) + 1e-9))]:
        solver = Picard(max_steps=4, tol=0, stop_mode=mode, stop_scope="batch")
        _, _, probe = pull_back(args, g, Exact(solver))
        np.testing.assert_allclose(probe, [[4, expected]] * 3, rtol=1e-9)


@pytest.mark.parametrize(("kind", "steps"), [(Picard, 1), (Anderson, 3), (Broyden, 8)])
def test_an_adjoint_that_does_not_converge_is_none_of_zero(kind, steps):
    """Its first iterate, u = g, has a residual above that of u = 0 where J expands."""

    @jax.jit
    @jax.grad
    def by_bias(bias):
        adjoint = Exact(kind(max_steps=steps, tol=1e-9))
        z, _ = equilibrium(lambda z, bias: jnp.tanh(z @ weight) + bias, z0, bias, adjoint=adjoint)
        return z.sum()

    rng = np.random.default_rng(0)
    weight, z0 = rng.normal(size=(16, 16)), rng.normal(size=(100, 16))
    assert np.linalg.norm(by_bias(jnp.asarray(z0 / 10)), axis=1).min() > 1e-3


def test_an_adjoint_of_which_no_step_is_finite_gives_the_incoming_gradient():
    """The pullback at the equilibrium overflows."""
    huge = jnp.full((1, 2), 3e38)
    pullback = lambda u: huge * (u + 1) * 10  # noqa: E731
    g = jnp.array([[1.0, -2.0]])
    cotangent = Exact(Picard()).solve(pullback, g, equilibrium)
    np.testing.assert_allclose(cotangent.u, g, rtol=1e-6)


def test_an_adjoint_that_leads_away_gives_at_least_the_incoming_gradient():
    """Of z = −1.5 z + a, where a series of the adjoint diverges; exact is 0.4."""

    @jax.jit
    @jax.grad
    def slope(a, solver):
        z, _ = equilibrium(lambda z, a: -1.5 * z + a, jnp.zeros((1, 1)), a, adjoint=Exact(solver))
        return z.sum()

    assert slope(1.0, Picard()) == 1
    assert slope(1.0, Picard(damping=0.9)) == pytest.approx(0.9)
    np.testing.assert_allclose(slope(1.0, Broyden()), 0.4, rtol=1e-3)


def test_jacobian_free_is_the_first_term(x64):
    args, g = random_args(), random_cotangent()
    z, gradient, probe = pull_back(args, g, JacobianFree())
    _, pullback = jax.vjp(lambda args: layer(z, args), args)
    assert_trees_close(gradient, pullback(g)[0], rtol=1e-12)
    np.testing.assert_array_equal(probe, 0)


@pytest.mark.parametrize(
    ("dtype", "size", "adjoint"),
    [
        (jnp.bfloat16, 1e-6, None),
        (jnp.float16, 3e-6, None),
        (jnp.float16, 3e-6, Shine(refine=2)),
    ],
)
def test_cotangents_of_16_bits(dtype, size, adjoint):
    """The adjoint solve runs on states of the cell's dtype, whatever 1/‖g‖ is in it."""

    def loss(bias):
        z0, solver = jnp.zeros((2, 4), dtype), Broyden(tol=1e-2)
        f = lambda z, bias: 0.5 * z + bias  # noqa: E731
        z, _ = equilibrium(f, z0, bias, solver=solver, adjoint=adjoint)
        return size * jnp.sum(z.astype(jnp.float32))

    gradient = jax.jit(jax.grad(loss))(jnp.ones((2, 4), dtype))
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient.astype(jnp.float32), 2 * size, rtol=0.02)


@pytest.mark.parametrize("adjoint", [Exact(Broyden()), Shine(refine=2)], ids=repr)
def test_an_empty_batch(adjoint):
    def loss(bias):
        f = lambda z, bias: 0.5 * z + bias[None]  # noqa: E731
        z, _ = equilibrium(f, jnp.zeros((0, 4)), bias, solver=Broyden(), adjoint=adjoint)
        return z.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(jnp.ones(4)), 0)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Series(Adjoint):
    """An adjoint of a third party: u = g + gJ + ... of so many terms."""

    terms: int = 40

    def solve(self, pullback, g, equilibrium, memory):
        def add_term(_, u):
            return jax.tree.map(jnp.add, pullback(u), g)

        u = jax.lax.fori_loop(0, self.terms - 1, add_term, g)
        unsolved = jnp.zeros(len(jax.tree.leaves(g)[0]))
        return Cotangent(u, unsolved.astype(jnp.int32) + self.terms, unsolved, unsolved[None][:0])


def test_an_adjoint_of_ones_own(x64):
    args, g = random_args(), random_cotangent()
    z, gradient, probe = pull_back(args, g, Series(80))
    assert_trees_close(gradient, dense_gradient(np.asarray(z), g, args), atol=1e-8)
    np.testing.assert_array_equal(probe, [[80, 0]] * 3)
    assert_trees_close(pull_back(args, g, Series(1))[1], pull_back(args, g, JacobianFree())[1])


def test_an_adjoint_of_ones_own_differentiates_again(x64):
    args = random_args(size=2, dim=3)

    def force(bias):
        by_bias = jax.grad(lambda b: readout({**args, "bias": b}, adjoint=Series(80)))(bias)
        return jnp.sum(by_bias**2)

    assert_slopes(jax.jit(force), jax.jit(jax.grad(force))(args["bias"]), args["bias"])


def test_adjoints_are_static_arguments_of_jit():
    traced = []

    @jax.jit
    def gradient(adjoint, args):
        traced.append(adjoint)
        return jax.grad(readout)(args, solver=Picard(), adjoint=adjoint)

    adjoints = [JacobianFree(), Phantom(1, 1.0), JacobianFree(), Phantom(1, 1.0)]
    for adjoint in adjoints:
        gradient(adjoint, random_args())
    assert traced == adjoints[:2]
    exact = [Exact(Broyden()), Exact(Broyden()), Exact(Picard())]
    assert len(set(exact)) == 2
    assert jax.tree.leaves(exact) == []


def test_neumann_is_phantom_at_an_exact_fixed_point(x64):
    args, g = random_args(), random_cotangent()
    _, ours, probe = pull_back(args, g, Neumann(3, 0.7))

    @jax.jit
    def by_phantom(args):
        options = {"solver": TIGHT, "adjoint": Phantom(3, 0.7)}
        solved = lambda args: equilibrium(layer, start(args), args, **options)[0]  # noqa: E731
        return jax.vjp(solved, args)[1](g)[0]

    assert_trees_close(ours, by_phantom(args), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(probe, 0)


def test_neumann_of_one_full_step_is_jacobian_free(x64):
    args, g = random_args(), random_cotangent()
    free, neumann = (pull_back(args, g, a)[1] for a in (JacobianFree(), Neumann(1, 1.0)))
    assert_trees_close(neumann, free, rtol=1e-12)


def test_neumann_tends_to_exact_at_the_rate_of_the_spectral_radius(x64):
    """Of B = λJ + (1 − λ)I, for a map whose J is a matrix."""
    basis = np.random.default_rng(0).normal(size=(4, 4)) + 2 * np.eye(4)
    matrix = basis @ np.diag([0.8, 0.5, -0.6, 0.1]) @ np.linalg.inv(basis)
    damping, radius = 0.6, 0.8 * 0.6 + 0.4
    g = np.ones((1, 4))
    exact = np.linalg.solve(np.eye(4) - matrix.T, g[0])

    def error(steps):
        def solved(x):
            f = lambda z, x: z @ matrix.T + x  # noqa: E731
            options = {"solver": TIGHT, "adjoint": Neumann(steps, damping)}
            return equilibrium(f, jnp.zeros((1, 4)), x, **options)[0]

        pull_back = jax.jit(lambda x, g: jax.vjp(solved, x)[1](g)[0])
        return np.linalg.norm(pull_back(jnp.ones((1, 4)), g)[0] - exact)

    assert error(60) / error(40) == pytest.approx(radius**20, rel=0.02)
    assert error(40) < 0.1


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("steps", 1.5), ("damping", 0.0), ("damping", 1.1)]
)
def test_bad_options_of_neumann(field, value):
    with pytest.raises(ValueError, match=f"Neumann.{field} is {value!r}; it must be"):
        Neumann(**{field: value})
