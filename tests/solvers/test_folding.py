"""`vmap` of a solve: the same results as one batch, at the cost of one batch."""

import functools
import re

import jax
import jax.numpy as jnp
import maps
import numpy as np
import pytest
from maps import assert_same, every_solver

from mdeq_jax.solvers import Broyden, Picard, solve


def batches():
    """Affine problems of three batches of four samples."""
    (matrix, offset), _ = maps.random_affine(size=12)
    return matrix.reshape(3, 4, 6, 6), offset.reshape(3, 4, 6)


@every_solver
def test_batches_are_one_batch(x64, kind):
    matrix, offset = batches()
    solver, z0 = kind(max_steps=12, tol=1e-6), jnp.zeros((4, 6))

    def of_batch(matrix, offset):  # what f closes over is mapped too
        f = lambda z, offset: maps.affine(z, (matrix, offset))  # noqa: E731
        return solve(f, z0, offset, solver, sample_at=(2, 5))

    mapped, alone = jax.jit(jax.vmap(of_batch))(matrix, offset), jax.jit(of_batch)
    for i in range(3):
        assert_same(jax.tree.map(lambda x, i=i: x[i], mapped), alone(matrix[i], offset[i]))


def test_mapped_limits_and_axes(x64):
    """Another tolerance and step limit for each batch, the start and the matrices shared."""
    matrix, offset = batches()
    tol, limit = jnp.array([1e-2, 1e-4, 1e-6]), jnp.array([9, 3, 0])

    def of_batch(offset, tol, limit):
        z0 = jnp.zeros((4, 6))
        args = (matrix[0], offset)
        return solve(maps.affine, z0, args, Broyden(), tol=tol, step_limit=limit)

    mapped = jax.jit(jax.vmap(of_batch, in_axes=(2, 0, 0), out_axes=1))(
        jnp.moveaxis(offset, 0, 2), tol, limit
    )
    alone = jax.jit(of_batch)
    for i in range(3):
        expected = alone(offset[i], tol[i], limit[i])
        assert_same(jax.tree.map(lambda x, i=i: x[:, i], mapped), expected)
    assert mapped.steps.max(axis=0).tolist() == [int(mapped.steps[:, 0].max()), 3, 0]


def test_axes_within_axes(x64):
    matrix, offset = batches()
    of_sample = lambda a, b: solve(maps.affine, jnp.zeros((1, 6)), (a[None], b[None]), Broyden())  # noqa: E731
    mapped = jax.jit(jax.vmap(jax.vmap(of_sample)))(matrix, offset)
    args = matrix.reshape(12, 6, 6), offset.reshape(12, 6)
    flat = maps.run(maps.affine, jnp.zeros((12, 6)), args, Broyden())
    np.testing.assert_allclose(mapped.z.reshape(12, 6), flat.z)
    np.testing.assert_array_equal(mapped.steps.ravel(), flat.steps)


@pytest.mark.parametrize("mode", ["rel", "abs"])
def test_batches_that_stop_as_a_whole_stay_apart(x64, mode):
    matrix, offset = batches()
    matrix = matrix * jnp.array([0.2, 0.6, 1.0])[:, None, None, None]
    solver = Picard(max_steps=60, tol=1e-4, stop_mode=mode, stop_scope="batch")
    of_batch = jax.jit(functools.partial(solve, maps.affine, jnp.zeros((4, 6)), solver=solver))
    mapped = jax.jit(jax.vmap(of_batch))((matrix, offset))
    for i in range(3):
        np.testing.assert_array_equal(mapped.steps[i], of_batch((matrix[i], offset[i])).steps)
    assert len(np.unique(mapped.steps)) == 3


@every_solver
def test_no_step_rewrites_the_memory(kind):
    """A mapped loop would scatter into each memory, and select between old and new ones."""
    solver = kind(max_steps=40)
    of_sample = lambda b: solve(lambda z, b: jnp.cos(z) * b, jnp.zeros((1, 50)), b, solver)  # noqa: E731
    text = jax.jit(jax.vmap(of_sample)).lower(jnp.ones((8, 1, 50))).as_text()
    assert "stablehlo.while" in text
    scattered = re.findall(r"stablehlo.scatter.*?: \(tensor<([^>]*)>", text, flags=re.DOTALL)
    assert not [kind for kind in scattered if kind.endswith("f32")]


def cell(z, a):
    return jnp.tanh(0.5 * z) + a


@pytest.mark.slow
def test_derivatives_that_pass_a_solve_by_or_go_through_it(x64):
    solver, z0, a = Broyden(max_steps=50, tol=1e-12), jnp.zeros((2, 3)), jnp.ones((2, 3))
    found = lambda a: solve(cell, z0, a, solver)  # noqa: E731
    z = found(a).z
    beside = jax.grad(lambda a: (a * jax.lax.stop_gradient(found(a).z)).sum())(a)
    np.testing.assert_allclose(beside, z)
    _, r = jax.grad(lambda a: ((a**2).sum(), found(a)), has_aux=True)(a)
    np.testing.assert_array_equal(r.steps, found(a).steps)
    slope = 1 / (1 - 0.5 * (1 - jnp.tanh(0.5 * z) ** 2))
    through = jax.jvp(lambda a: found(a).z, (a,), (jnp.ones_like(a),))[1]
    np.testing.assert_allclose(through, slope, rtol=1e-4)
    many = jnp.stack([a, a])
    along = jax.vmap(lambda a: jax.jvp(lambda a: found(a).z, (a,), (jnp.ones_like(a),))[1])(many)
    np.testing.assert_allclose(along[1], through, rtol=1e-6)


def test_a_map_that_speaks_to_the_other_batches(x64):
    """A collective over the mapped axis, as in a BatchNorm with an axis name."""
    solver, z0 = Broyden(max_steps=50, tol=1e-10), jnp.zeros((2, 3))
    a = jnp.stack([jnp.ones((2, 3)), 2 * jnp.ones((2, 3))])

    def of_batch(a):
        def f(z, a):
            factor = 0.1 * (1 + jax.lax.axis_index("i")).astype(z.dtype)
            return cell(z, a) - factor * jax.lax.pmean(z, "i")

        return solve(f, z0, a, solver).z

    z = jax.jit(jax.vmap(of_batch, axis_name="i"))(a)
    share = 0.1 * z.mean(axis=0, keepdims=True) * jnp.array([1.0, 2.0])[:, None, None]
    np.testing.assert_allclose(cell(z, a) - share, z, atol=1e-8)
