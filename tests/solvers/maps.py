"""Maps whose fixed points or residuals are known, and how the tests of the solvers run them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.solvers import Anderson, Broyden, Picard, Point, solve

SOLVERS = [Picard, Anderson, Broyden]
every_solver = pytest.mark.parametrize("kind", SOLVERS, ids=lambda kind: kind.__name__)


@functools.partial(jax.jit, static_argnames="f")
def run(f, z0, args, solver, tol=None, step_limit=None):
    return solve(f, z0, args, solver, tol=tol, step_limit=step_limit)


@functools.partial(jax.jit, static_argnames=("f", "steps"))
def propose_iterates(f, z0, args, solver, steps):
    """Every iterate that the solver's own method makes, (steps, B, ...)."""

    def body(carry, k):
        z, memory = carry
        z, memory = solver.propose(memory, point_at(z, k))
        return (z, memory), z

    def point_at(z, k):
        return Point(z, f(z, args) - z, k, lambda z: f(z, args))

    return jax.lax.scan(body, (z0, solver.init(point_at(z0, 0))), jnp.arange(steps))[1]


def affine(z, args):
    """A z + b, each sample with its own A and b."""
    matrix, offset = args
    return jnp.einsum("bij,bj->bi", matrix, z) + offset


def random_affine(size=4, dim=6, radius=0.8, seed=0):
    """Arguments of `affine` with ‖A‖₂ = radius, and the fixed points (I − A)⁻¹ b."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(size, dim, dim))
    matrix *= radius / np.linalg.norm(matrix, ord=2, axis=(1, 2), keepdims=True)
    offset = rng.normal(size=(size, dim))
    fixed_points = np.linalg.solve(np.eye(dim) - matrix, offset[..., None])[..., 0]
    return (jnp.asarray(matrix), jnp.asarray(offset)), fixed_points


def rotation(factor, size=3):
    """Arguments of `affine` in the plane, A a quarter turn times `factor`, and the fixed points."""
    turn = factor * np.array([[0.0, -1.0], [1.0, 0.0]])
    offset = np.random.default_rng(1).normal(size=(size, 2))
    fixed_points = np.linalg.solve(np.eye(2) - turn, offset.T).T
    return (jnp.asarray(np.broadcast_to(turn, (size, 2, 2))), jnp.asarray(offset)), fixed_points


def tanh_cell(z, args):
    """A nonlinear map on a dict of leaves of different ranks that feed each other."""
    weight, x = args
    flat = jnp.concatenate([z["a"], z["b"].reshape(len(z["b"]), -1)], axis=-1)
    out = jnp.tanh(flat @ weight + x)
    return {"a": out[:, :2], "b": out[:, 2:].reshape(z["b"].shape)}


def random_tanh_cell(size=5, seed=0):
    """A start and arguments for `tanh_cell`; its fixed points differ much in difficulty."""
    rng = np.random.default_rng(seed)
    weight = 0.8 * rng.normal(size=(8, 8)) / np.sqrt(8)
    x = rng.normal(size=(size, 8)) * np.linspace(0.1, 2, size)[:, None]
    z0 = {"a": jnp.zeros((size, 2)), "b": jnp.zeros((size, 3, 2))}
    return z0, (jnp.asarray(weight), jnp.asarray(x))


def tanh_layer(z, args):
    weight, x = args
    return jnp.tanh(z @ weight + x)


def random_tanh_layer():
    """A start (3, 7) and arguments for `tanh_layer`."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(7, 7)) / np.sqrt(7)
    x, z0 = rng.normal(size=(2, 3, 7))
    return z0, (weight, x)


def scripted(z, table):
    """Under plain iteration, evaluation k has the residual vector (1, table[:, k]), exactly.

    The state is (k, y); from y = 0 its absolute residual is hypot(1, table[:, k]).
    """
    k = z[:, 0].astype(int)
    return z + jnp.stack([jnp.ones_like(z[:, 0]), table[jnp.arange(len(z)), k]], axis=-1)


def assert_same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)
