"""The adjoint solve, started elsewhere than at 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, assert_slopes, layer, random_args, start

from mdeq_jax.implicit import Exact, equilibrium
from mdeq_jax.solvers import Broyden, Picard

SOLVER = Broyden(60, 1e-10)


def guess(g, args):
    return args["guess"]


def with_guess(size=3):
    args = random_args(size)
    return {**args, "guess": jnp.zeros_like(start(args))}


@jax.jit
def pull_back(adjoint, args, g):
    """Gradients of the arguments for the cotangent g, and the adjoint's steps and residual."""

    def solved(args, probe):
        options = {"solver": TIGHT, "adjoint": adjoint, "adjoint_probe": probe}
        return equilibrium(layer, start(args), args, **options)[0]

    return jax.vjp(solved, args, jnp.zeros((len(g), 2), g.dtype))[1](g)


def cotangent(size=3):
    """Of samples of very different sizes."""
    g = np.random.default_rng(1).normal(size=(size, 5))
    return jnp.asarray(g * np.logspace(-6, 3, size)[:, None])


def solution(args, g):
    """u itself: the gradient with respect to a shift of f."""

    def shifted(shift):
        f = lambda z, args: layer(z, args) + shift  # noqa: E731
        return equilibrium(f, start(args), args, solver=TIGHT, adjoint=Exact(TIGHT))[0]

    return jax.vjp(shifted, jnp.zeros_like(g))[1](g)[0]


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_the_solution_is_the_same_in_fewer_steps(x64, scope):
    args, g = with_guess(), cotangent()
    solver = Broyden(60, 1e-9, stop_mode="abs", stop_scope=scope)
    u = jax.jit(solution)(args, g)
    plain, probe = pull_back(Exact(solver), args, g)
    for error, fewer in ((0.0, True), (1e-3, True), (3.0, False)):
        args["guess"] = u * (1 + error)
        gradient, started = pull_back(Exact(solver, start=guess), args, g)
        np.testing.assert_array_equal(gradient.pop("guess"), 0)
        expected = {name: plain[name] for name in gradient}
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)  # noqa: E731
        jax.tree.map(close, gradient, expected)
        assert (started[:, 0] < probe[:, 0]).all() or not fewer
        if error == 0:
            np.testing.assert_array_equal(started[:, 0], 0)


def test_from_zero_it_is_the_plain_solve(x64):
    args, g = with_guess(), cotangent()
    ours, expected = (pull_back(Exact(SOLVER, s), args, g) for s in (guess, None))
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_a_cotangent_of_0_gives_0_whatever_the_start(x64, scope):
    args = {**with_guess(), "guess": jnp.ones((3, 5))}
    solver = Broyden(60, 1e-9, stop_mode="abs", stop_scope=scope)
    gradient, probe = pull_back(Exact(solver, start=guess), args, jnp.zeros((3, 5)))
    for by_leaf in gradient.values():
        np.testing.assert_array_equal(by_leaf, 0)
    np.testing.assert_array_equal(probe, 0)


def test_second_derivatives(x64):
    """The start is no part of the function that is differentiated, at any order."""
    args = with_guess(2)

    def force(bias, adjoint):
        def energy(bias):
            z, _ = equilibrium(
                layer,
                start(args),
                {**args, "bias": bias, "guess": bias + jnp.ones((2, 1))},
                solver=TIGHT,
                adjoint=adjoint,
            )
            return jnp.sum(jnp.sin(3 * z))

        return jnp.sum(jax.grad(energy)(bias) ** 2)

    ours = jax.jit(jax.grad(lambda bias: force(bias, Exact(TIGHT, start=guess))))(
        args["bias"][None]
    )
    plain = jax.jit(lambda bias: force(bias, Exact(TIGHT)))
    assert_slopes(plain, ours, args["bias"][None])


def test_a_start_from_keys_and_integers(x64):
    """The arguments of f may have any dtype."""
    args = {**with_guess(), "key": jax.random.key(0), "count": jnp.arange(3)}
    random = lambda g, args: jax.random.normal(args["key"], g.shape, g.dtype)  # noqa: E731
    g = cotangent()

    def by_bias(adjoint):
        def solved(bias):
            z, _ = equilibrium(
                layer, start(args), {**args, "bias": bias}, solver=TIGHT, adjoint=adjoint
            )
            return z

        return jax.jit(lambda bias: jax.vjp(solved, bias)[1](g)[0])(args["bias"])

    np.testing.assert_allclose(by_bias(Exact(TIGHT, random)), by_bias(Exact(TIGHT)), rtol=1e-6)


def test_it_is_hashable_and_equal_by_its_function():
    assert Exact(SOLVER, guess) == Exact(SOLVER, guess)
    assert hash(Exact(SOLVER, guess)) == hash(Exact(SOLVER, guess))
    assert Exact(SOLVER, guess) != Exact(SOLVER)
    assert jax.tree.leaves(Exact(SOLVER, guess)) == []


@pytest.mark.parametrize("bad", [lambda g, a: g[:, :2], lambda g, a: (g, g), lambda g, a: g > 0])
def test_a_start_of_another_shape(bad):
    args = jax.tree.map(lambda x: x.astype(jnp.float32), with_guess())
    with pytest.raises(ValueError, match=r"Exact\.start must map a state to one of the same"):
        pull_back(Exact(Picard(), bad), args, jnp.ones((3, 5)))


def test_a_start_that_is_no_function():
    with pytest.raises(ValueError, match=r"Exact\.start is 'g'; it must be a function \(g, args\)"):
        Exact(Picard(), start="g")
