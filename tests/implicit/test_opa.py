"""SHINE with outer-problem awareness, against textbook updates on matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import layer, random_args, start
from numpy.testing import assert_allclose
from test_shine import SOLVER, cosine, exact_u, jacobian, random_g, u_of

from mdeq_jax.implicit import Shine, equilibrium
from mdeq_jax.solvers import Broyden


def outer_options(args, g, every):
    return {"outer_gradient": lambda z: jnp.asarray(g)}, Shine(fallback=None, opa_every=every)


def test_opa_needs_the_outer_gradient():
    with pytest.raises(ValueError, match="outer_gradient="):
        u_of(Shine(opa_every=2), random_args(), random_g(random_args()))


@pytest.mark.parametrize(
    "outer_gradient", [lambda z: z.sum(), lambda z: z[:, :2], lambda z: (z, z)]
)
def test_an_outer_gradient_that_is_none(outer_gradient):
    args = random_args()
    with pytest.raises(ValueError, match="outer_gradient must map a state to one of the same"):
        u_of(Shine(opa_every=2), args, random_g(args), outer_gradient=outer_gradient)


def test_opa_goes_by_the_direction_alone():
    args = jax.tree.map(lambda x: x.astype(jnp.float32), random_args(size=2, dim=4))
    g = random_g(args).astype(np.float32)

    @jax.jit
    def u(factor):
        options, adjoint = outer_options(args, factor * g, every=2)
        return u_of.__wrapped__(adjoint, args, g, Broyden(max_steps=5, tol=0.0), **options)[0]

    for factor in (1e-15, 1e15):
        assert_allclose(u(factor), u(1.0), rtol=1e-3)


@pytest.mark.slow
def test_opa_learns_the_direction_of_the_gradient(x64):
    args = random_args(size=8, dim=12)
    g, other = random_g(args), random_g(args, seed=2)
    solver = Broyden(max_steps=20, tol=1e-9)
    plain, z, _ = u_of(Shine(fallback=None), args, g, solver)
    options, adjoint = outer_options(args, g, every=2)
    aware, z_aware, result = u_of(adjoint, args, g, solver, **options)
    assert result.converged.all()
    assert_allclose(z_aware, z, atol=1e-7)
    exact = exact_u(args, z, g)
    assert np.median(cosine(aware, exact)) > 0.999 > np.median(cosine(plain, exact))
    unasked, *_ = u_of(adjoint, args, other, solver, **options)
    assert np.median(cosine(unasked, exact_u(args, z, other))) < 0.999


def test_opa_is_the_dense_update(x64):
    """Each update makes B obey vᵀB = vᵀ(J − I), by the textbook formula on matrices."""
    args, every, steps = jax.tree.map(np.asarray, random_args(size=2, dim=4)), 2, 5
    g = random_g(args)
    options, adjoint = outer_options(args, g, every)
    u, *_ = u_of(adjoint, args, g, Broyden(max_steps=steps, tol=0.0), **options)
    for b in range(2):
        one = {**args, "x": args["x"][b : b + 1]}
        weight, offset = args["weight"], one["x"][0] @ args["inject"] + args["bias"]
        gap = lambda z, w=weight, b=offset: np.tanh(z @ w + b) - z  # noqa: E731
        z, matrix = np.zeros(4), -np.eye(4)
        for k in range(steps):
            if k and k % every == 0:
                v = -np.linalg.solve(matrix.T, g[b])
                j = jacobian(one, z[None])[0] - np.eye(4)
                matrix = matrix + np.outer(v, v @ j - v @ matrix) / (v @ v)
                assert_allclose(v @ matrix, v @ j, atol=1e-12)
            s = -np.linalg.solve(matrix, gap(z))
            y = gap(z + s) - gap(z)
            z = z + s
            matrix = matrix + np.outer(y - matrix @ s, s) / (s @ s)
        assert_allclose(u[b], -np.linalg.solve(matrix.T, g[b]), rtol=1e-7)


def test_opa_with_an_outer_gradient_that_closes_over_what_is_differentiated(x64):
    args = random_args()

    @jax.jit
    def gradient(scale):
        def loss(scale):
            z, _ = equilibrium(
                layer,
                start(args),
                args,
                solver=SOLVER,
                adjoint=Shine(opa_every=3),
                outer_gradient=lambda z: scale * z,
            )
            return scale * jnp.sum(z**2) / 2

        return jax.grad(loss)(scale)

    z = jax.jit(lambda: equilibrium(layer, start(args), args, solver=SOLVER)[0])()
    assert_allclose(gradient(2.0), jnp.sum(z**2) / 2, rtol=1e-6)
