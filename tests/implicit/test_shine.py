"""SHINE against the inverse that the history stands for, and against the true inverse."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import layer, random_args, readout, start
from numpy.testing import assert_allclose

from mdeq_jax.implicit import Exact, Shine, equilibrium
from mdeq_jax.solvers import Anderson, Broyden, Picard

SOLVER = Broyden(max_steps=12, tol=1e-12)


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@functools.partial(jax.jit, static_argnames="outer_gradient")
def u_of(adjoint, args, g, solver=SOLVER, step_limit=None, outer_gradient=None):
    """The u that an adjoint finds: what it pulls back through ∂f/∂bias of f = layer + bias."""

    def shifted(z, bias):
        return layer(z, args) + bias

    def run(bias):
        options = {"adjoint": adjoint, "step_limit": step_limit, "outer_gradient": outer_gradient}
        return equilibrium(shifted, start(args), bias, solver=solver, **options)

    z, pullback, result = jax.vjp(run, jnp.zeros_like(start(args)), has_aux=True)
    return pullback(g)[0], z, result


def dense_inverse(args, b, steps):
    """Good Broyden's B⁻¹ of sample b after so many steps, as a matrix, from textbook updates."""

    weight = np.asarray(args["weight"])
    offset = np.asarray(args["x"][b] @ args["inject"] + args["bias"])

    def gap(z):
        return np.tanh(z @ weight + offset) - z

    z = np.zeros(len(weight))
    inverse, g = -np.eye(len(z)), gap(z)
    for _ in range(steps):
        s = -inverse @ g
        z = z + s
        g, before = gap(z), g
        y = g - before
        inverse = inverse + np.outer(s - inverse @ y, s @ inverse) / (s @ inverse @ y)
    return inverse


def jacobian(args, z):
    weight = np.asarray(args["weight"])
    return np.stack([(1 - row**2)[:, None] * weight.T for row in np.asarray(layer(z, args))])


def random_g(args, seed=1):
    return np.random.default_rng(seed).normal(size=start(args).shape)


def exact_u(args, z, g):
    pairs = zip(jacobian(args, z), g, strict=True)
    return np.stack([np.linalg.solve(np.eye(len(j)) - j.T, row) for j, row in pairs])


def test_it_is_g_times_the_dense_inverse_of_the_history(x64):
    """Also where the step limit ends the solve: the last secant pair is in."""
    args = random_args()
    g = random_g(args)
    solver = dataclasses.replace(SOLVER, max_steps=9)
    for steps in (1, 4, 9):
        u, _, result = u_of(Shine(fallback=None), args, g, solver, steps)
        np.testing.assert_array_equal(result.steps, steps)
        for b in range(len(g)):
            assert_allclose(u[b], -g[b] @ dense_inverse(args, b, steps), rtol=1e-6, atol=1e-9)


def test_the_history_ends_at_the_iterate_that_is_returned(x64):
    """Samples of one batch stop at different steps, and their histories with them."""
    args = random_args(size=6)
    args["x"] = args["x"] * jnp.array([1e-8, 1e-4, 1e-2, 1, 3, 10])[:, None]
    args["bias"] = 0 * args["bias"]
    g = random_g(args)
    solver = Broyden(max_steps=30, tol=1e-6, stop_mode="abs")
    u, _, result = u_of(Shine(fallback=None), args, g, solver)
    assert len(set(np.asarray(result.steps).tolist())) > 3
    for b in range(len(g)):
        expected = -g[b] @ dense_inverse(args, b, int(result.steps[b]))
        assert_allclose(u[b], expected, rtol=1e-6, atol=1e-9)


def test_exact_for_a_state_of_one_entry(x64):
    slopes, g = np.array([[0.9], [-0.5], [-3.0]]), np.array([[1.0], [2.0], [-0.5]])
    solver = Broyden(max_steps=30, tol=1e-9)

    def run(x):
        z, _ = equilibrium(lambda z, x: slopes * z + x, 0 * x, x, solver=solver, adjoint=Shine())
        return z

    pull_back = jax.jit(lambda x, g: jax.vjp(run, x)[1](g)[0])
    u = pull_back(np.array([[1.0], [2.0], [3.0]]), g)
    assert_allclose(u, np.where(slopes < 0.5, g / (1 - slopes), g))


@pytest.mark.slow
def test_refining_tends_to_exact(x64):
    args = random_args()
    g = random_g(args)
    errors = []
    for n in (0, 3, 12):
        u, z, _ = u_of(Shine(refine=n), args, g)
        errors.append(np.linalg.norm(u - exact_u(args, z, g)))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-9


@pytest.mark.slow
def test_refining_is_broyden_from_the_forward_inverse(x64):
    """One step from u with B: u ← u + (uJ + g − u)(−B⁻¹)."""
    args = random_args()
    g = random_g(args)
    solver = dataclasses.replace(SOLVER, max_steps=6)
    u, z, result = u_of(Shine(refine=1, fallback=None), args, g, solver)
    for b in range(len(g)):
        inverse = dense_inverse(args, b, int(result.steps[b]))
        first = -g[b] @ inverse
        gap = first @ jacobian(args, z)[b] + g[b] - first
        assert_allclose(u[b], first - gap @ inverse, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_its_statistics_are_those_of_the_refinement(x64):
    args = random_args()

    def steps_and_residual(adjoint):
        def loss(probe):
            options = {"solver": SOLVER, "adjoint": adjoint, "adjoint_probe": probe}
            return readout(args, **options)

        return jax.jit(jax.grad(loss))(jnp.zeros((3, 2)))

    np.testing.assert_array_equal(steps_and_residual(Shine()), 0)
    refined = steps_and_residual(Shine(refine=3))
    np.testing.assert_array_equal(refined[:, 0], 3)
    assert (refined[:, 1] > 0).all()
    assert (refined[:, 1] < 0.1).all()


def test_fallback_to_jacobian_free_per_sample(x64):
    args = random_args(size=6, seed=3)
    g = random_g(args)
    whole, *_ = u_of(Shine(fallback=None), args, g)
    growth = np.linalg.norm(whole, axis=-1) / np.linalg.norm(g, axis=-1)
    between = float(np.median(growth))
    u, *_ = u_of(Shine(fallback=between), args, g)
    far = growth > between
    assert far.any()
    assert not far.all()
    np.testing.assert_array_equal(u[far], g[far])
    assert_allclose(u[~far], whole[~far], rtol=1e-12)


def test_what_fell_back_is_refined_from_there(x64):
    """With B = −I as well: one step is u ← g J + g."""
    args = random_args()
    g = random_g(args)
    u, z, _ = u_of(Shine(refine=1, fallback=1e-9), args, g)
    plain = np.einsum("bi,bij->bj", g, jacobian(args, z)) + g
    assert_allclose(u, plain, rtol=1e-9)


def test_vmap(x64):
    """Over the gradient, of models that differ."""
    adjoint = Shine(refine=2, opa_every=2)

    def gradient(args):
        outer_gradient = jax.grad(lambda z: jnp.sum(jnp.sin(z)))
        solver = dataclasses.replace(SOLVER, max_steps=6)  # more only amplify rounding
        options = {"solver": solver, "adjoint": adjoint, "outer_gradient": outer_gradient}
        return jax.grad(lambda args: readout(args, **options))(args)

    several = [random_args(seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *several)
    ours = jax.jit(jax.vmap(gradient))(stacked)
    single = jax.jit(gradient)
    expected = jax.tree.map(lambda *xs: jnp.stack(xs), *map(single, several))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-7, atol=1e-9), ours, expected)


def test_states_of_16_bits():
    args = jax.tree.map(lambda x: x.astype(jnp.float32), random_args())

    def gradient(dtype):
        def f(z, args):
            wide = jax.tree.map(lambda x: x.astype(jnp.float32), z)
            return {"a": layer(wide["a"], args).astype(dtype), "b": jnp.tanh(wide["a"] / 2)}

        def loss(args):
            z0 = {"a": start(args).astype(dtype), "b": start(args)}
            z, _ = equilibrium(
                f,
                z0,
                args,
                solver=Broyden(max_steps=3),
                adjoint=Shine(refine=2, opa_every=2),
                outer_gradient=lambda z: jax.tree.map(jnp.ones_like, z),
            )
            return sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(z))

        return jax.jit(jax.grad(loss))(args)

    narrow, wide = gradient(jnp.bfloat16), gradient(jnp.float32)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=0.1, atol=0.05), narrow, wide)


def test_a_cotangent_of_zero(x64):
    args = random_args()
    u, *_ = u_of(Shine(refine=3), args, np.zeros(start(args).shape))
    np.testing.assert_array_equal(u, 0)


@pytest.mark.slow
def test_second_derivatives_take_the_inverse_as_given(x64):
    """With B held fixed, u is linear in g: the second derivative of a quadratic loss is finite."""
    args = random_args(size=2, dim=3)

    def slope(bias, adjoint):
        options = {"solver": SOLVER, "adjoint": adjoint}
        return jnp.sum(jax.grad(lambda b: readout({**args, "bias": b}, **options))(bias) ** 2)

    second, exact = (
        jax.jit(jax.grad(slope))(args["bias"], adjoint)
        for adjoint in (Shine(refine=20), Exact(SOLVER))
    )
    assert_allclose(second, exact, rtol=1e-5)


@pytest.mark.parametrize("solver", [Picard(), Anderson(), Broyden(memory=4)])
def test_another_forward_solver_is_an_error(solver):
    with pytest.raises(ValueError, match=r"Shine reuses the history.*memory=None"):
        u_of(Shine(), random_args(), random_g(random_args()), solver)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": -1}, r"Shine\.refine is -1; it must be a whole number of at least 0"),
        ({"refine": 1.5}, r"Shine\.refine is 1\.5"),
        ({"fallback": 0.0}, r"Shine\.fallback is 0\.0; it must be a number above 0, or None"),
        ({"fallback": "1.8"}, r"Shine\.fallback is '1\.8'"),
        ({"opa_every": 0}, r"Shine\.opa_every is 0; it must be a whole number of at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Shine(**options)
