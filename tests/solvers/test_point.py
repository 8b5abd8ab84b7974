"""What a solver is handed: the iterate, its residual, the map and its pullback."""

import dataclasses

import jax
import jax.numpy as jnp
import maps
import numpy as np
import pytest
from jax.scipy.sparse.linalg import gmres
from maps import SOLVERS, run

from mdeq_jax.implicit import Exact, equilibrium
from mdeq_jax.solvers import Picard, Solver, iterate, solve
from mdeq_jax.solvers.norms import norm, scale

own_solver = lambda kind: jax.tree_util.register_static(dataclasses.dataclass(frozen=True)(kind))  # noqa: E731


@own_solver
class LineSearch(Solver):
    """z + t g with the first t of 1, 1/2, ... that lowers the residual by a factor 1 − t/2."""

    halvings: int = 12

    def init(self, point):
        return ()

    def propose(self, memory, point):
        def moved(t):
            return jax.tree.map(jnp.add, point.z, scale(t, point.g))

        def halve(_, t):
            z = moved(t)
            residual = norm(jax.tree.map(jnp.subtract, point.f(z), z))
            return jnp.where(residual < (1 - t / 2) * norm(point.g), t, t / 2)

        t = jnp.ones_like(norm(point.g))
        return moved(jax.lax.fori_loop(0, self.halvings, halve, t)), memory


@own_solver
class NewtonKrylov(Solver):
    """Newton's method, each step by GMRES on (I − J) s = g."""

    def init(self, point):
        return ()

    def propose(self, memory, point):
        _, jacobian = jax.linearize(point.f, point.z)
        difference = lambda s: jax.tree.map(jnp.subtract, s, jacobian(s))  # noqa: E731
        step, _ = gmres(difference, point.g, tol=1e-13, solve_method="incremental")
        return jax.tree.map(jnp.add, point.z, step), memory


@own_solver
class Descent(Solver):
    """Gradient descent on ‖g‖² / 2, whose gradient is gJ − g."""

    rate: float = 0.1

    def init(self, point):
        return ()

    def propose(self, memory, point):
        slope = jax.tree.map(jnp.subtract, point.pullback(point.g), point.g)
        return jax.tree.map(lambda z, s: z - self.rate * s, point.z, slope), memory


def cubic(z, a):
    """Its fixed point for a = 2 is 1, where its slope is −3."""
    return a - z**3


def test_a_line_search_of_each_sample(x64):
    z0 = jnp.array([[0.5], [1.2], [3.0]])
    assert not run(cubic, z0, 2.0, Picard()).converged.any()
    r = run(cubic, z0, 2.0, LineSearch(max_steps=60, tol=1e-10))
    assert r.converged.all()
    np.testing.assert_allclose(r.z, 1, atol=1e-9)
    solver = LineSearch(max_steps=60, tol=1e-10)
    alone = [run(cubic, z0[i : i + 1], 2.0, solver) for i in range(3)]
    np.testing.assert_array_equal(r.steps, [each.steps[0] for each in alone])


def test_newton_krylov_solves_a_linear_map_that_expands_in_one_step(x64):
    args, fixed_points = maps.random_affine(radius=3.0)
    z0 = jnp.zeros_like(fixed_points)
    assert not run(maps.affine, z0, args, Picard()).converged.any()
    r = run(maps.affine, z0, args, NewtonKrylov(tol=1e-9))
    np.testing.assert_array_equal(r.steps, 1)
    np.testing.assert_allclose(r.z, fixed_points, atol=1e-8)


def test_newton_krylov_inside_an_equilibrium_and_its_adjoint(x64):
    def z_star(a):
        z0, solver = {"z": jnp.array([[0.5], [1.2]])}, NewtonKrylov(tol=1e-12)
        f = lambda z, a: jax.tree.map(lambda z: cubic(z, a), z)  # noqa: E731
        return equilibrium(f, z0, a, solver=solver, adjoint=Exact(solver))[0]["z"].sum()

    value, slope = jax.jit(jax.value_and_grad(z_star))(2.0)
    np.testing.assert_allclose((value, slope), (2, 2 / 4), rtol=1e-9)  # dz/da = 1 / (1 + 3 z²)


def test_descent_by_the_pullback_converges_to_the_least_residual(x64):
    """Where J − I is singular: f(z) = z W + b has no fixed point, but a least-squares one."""
    weight = jnp.diag(jnp.array([1.0, -2.0, 0.5]))
    bias = jnp.array([[0.3, 1.0, 2.0]])
    f = lambda z, b: z @ weight + b  # noqa: E731
    r = run(f, jnp.zeros((1, 3)), bias, Descent(max_steps=800, tol=0.0, stop_mode="abs"))
    np.testing.assert_allclose(r.z, [[0.0, 1 / 3, 4.0]], atol=1e-6)
    np.testing.assert_allclose(r.residual, 0.3, rtol=1e-9)


@pytest.mark.parametrize("kind", [LineSearch, NewtonKrylov, Descent])
def test_16_bit_states_reach_a_solver_in_float32(kind):
    seen = []

    @own_solver
    class Spy(kind):
        def propose(self, memory, point):
            u = point.pullback(point.g)
            seen.append((point.z.dtype, point.g.dtype, point.f(point.z).dtype, u.dtype))
            return super().propose(memory, point)

    f = lambda z, _: (0.3 * jnp.cos(z.astype(jnp.float32))).astype(z.dtype)  # noqa: E731
    r = run(f, jnp.zeros((2, 3), jnp.bfloat16), None, Spy(max_steps=200, tol=1e-2))
    assert r.z.dtype == jnp.bfloat16
    assert r.converged.all()
    assert {*sum(seen, ())} == {jnp.dtype(jnp.float32)}


def test_under_vmap(x64):
    (matrix, offset), fixed_points = maps.random_affine(size=6, radius=3.0)
    args = matrix.reshape(3, 2, 6, 6), offset.reshape(3, 2, 6)
    solver = NewtonKrylov(tol=1e-9)
    of_two = lambda args: solve(maps.affine, jnp.zeros((2, 6)), args, solver).z  # noqa: E731
    z = jax.jit(jax.vmap(of_two))(args)
    np.testing.assert_allclose(z.reshape(6, 6), fixed_points, atol=1e-8)


def evaluations(solver):
    """How often f stands in the program of a solve."""
    f = lambda z, _: jnp.cos(z)  # noqa: E731
    run = lambda z0: iterate(f, z0, None, solver).result  # noqa: E731
    return str(jax.make_jaxpr(run)(jnp.zeros((2, 3)))).count("cos ")


def test_a_solver_pays_only_for_what_it_reads():
    """Once at the start and once a step; a line search has one more in its own loop."""
    assert [evaluations(kind()) for kind in SOLVERS] == [2, 2, 2]
    assert evaluations(LineSearch()) == 3
