"""`solve`: known fixed points, states and their dtypes, solvers of one's own, bad input."""

import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import maps
import numpy as np
import pytest
from maps import SOLVERS, assert_same, every_solver, run

from mdeq_jax.solvers import Anderson, Broyden, Picard, Solver, iterate, solve

# Known fixed points


@every_solver
def test_affine_contraction(x64, kind):
    args, fixed_points = maps.random_affine()
    r = run(maps.affine, jnp.zeros_like(fixed_points), args, kind(max_steps=150, tol=1e-11))
    assert r.converged.all()
    np.testing.assert_allclose(r.z, fixed_points, atol=1e-9)


@every_solver
def test_cosine(x64, kind):
    z0 = jnp.array([[0.0], [1.0], [-2.0]])
    r = run(lambda z, _: jnp.cos(z), z0, None, kind(max_steps=100, tol=1e-12))
    np.testing.assert_allclose(r.z, 0.7390851332151607, atol=1e-11)


def test_rotation_defeats_picard_alone(x64):
    args, fixed_points = maps.rotation(3.0)
    z0 = jnp.zeros_like(fixed_points)
    assert not run(maps.affine, z0, args, Picard(max_steps=50)).converged.any()
    for solver in (Broyden(tol=1e-11), Anderson(tol=1e-11)):
        r = run(maps.affine, z0, args, solver)
        assert r.converged.all()
        np.testing.assert_allclose(r.z, fixed_points, atol=1e-9)


# States and dtypes


@every_solver
def test_leaves_of_mixed_shapes_and_dtypes(x64, kind):
    z0 = {
        "b16": jnp.zeros(3, jnp.bfloat16),
        "f32": [jnp.zeros((3, 4), jnp.float32)],
        "f64": (jnp.zeros((3, 2, 2, 1), jnp.float64),),
    }
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), z0)
    targets = jax.tree.map(lambda x: (jnp.arange(x.size) - 1).reshape(x.shape).astype(x.dtype), z0)

    def f(z, targets):
        return jax.tree.map(lambda z, target: target - 0.5 * z, z, targets)

    r = run(f, z0, targets, kind(max_steps=40, tol=1e-2))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), r.z) == shapes
    assert r.residual.dtype == jnp.float64
    assert r.converged.all()
    assert_same(r.z, jax.tree.map(lambda t: t / 1.5, targets), rtol=0.05, atol=0.02)


@every_solver
def test_bfloat16_states_keep_a_float32_memory(kind):
    seen = []

    def f(z, args):
        seen.append(z.dtype)
        return maps.affine(z.astype(jnp.float32), args).astype(z.dtype)

    args, fixed_points = maps.random_affine(radius=0.5)
    z0 = jnp.zeros((4, 6), jnp.bfloat16)
    r, memory, *_ = jax.jit(lambda: iterate(f, z0, args, kind(max_steps=30, tol=1e-2)))()
    assert r.z.dtype == jnp.bfloat16
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves((memory, r.residual, r.trace))} <= {jnp.float32.dtype}
    assert r.converged.all()
    np.testing.assert_allclose(r.z.astype(float), fixed_points, atol=0.05)


def test_a_weakly_typed_start():
    z0 = jnp.full((2, 1), 0.5)
    assert z0.weak_type
    assert run(lambda z, _: jnp.cos(z), z0, None, Broyden(tol=1e-4)).converged.all()


def test_solvers_are_static_arguments_of_jit():
    traced = []

    @jax.jit
    def fixed_point(solver, z0):
        traced.append(solver)
        return solve(lambda z, _: jnp.cos(z), z0, None, solver).z

    for tol in (1e-2, 1e-2, 1e-3):
        fixed_point(Broyden(tol=tol), jnp.zeros((1, 1)))
    assert traced == [Broyden(tol=1e-2), Broyden(tol=1e-3)]
    for kind in SOLVERS:
        assert len({kind(), kind(), kind(max_steps=7)}) == 2
        assert jax.tree.leaves(kind()) == []


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class HeavyBall(Solver):
    """A solver of a third party: z ← z + g + momentum · (z − z_before)."""

    momentum: float = 0.2

    def init(self, point):
        return point.z

    def propose(self, memory, point):
        def push(z, g, before):
            return z + g + self.momentum * (z - before)

        return jax.tree.map(push, point.z, point.g, memory), point.z


def test_a_solver_of_ones_own(x64):
    args, fixed_points = maps.random_affine()
    r = run(maps.affine, jnp.zeros((4, 6)), args, HeavyBall(max_steps=200, tol=1e-11))
    assert r.converged.all()
    np.testing.assert_allclose(r.z, fixed_points, atol=1e-9)


# Bad input


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


@pytest.mark.parametrize(
    ("z0", "f", "message"),
    [
        ({}, lambda z: z["a"], "no arrays"),
        (jnp.zeros((2, 3), int), lambda z: z, r"int32.*\(2, 3\)"),
        (jnp.zeros((2, 3), complex), lambda z: z, "complex64"),
        (1.0, lambda z: z, "first axis"),
        ([jnp.zeros((2, 3)), jnp.zeros((3, 3))], lambda z: z, r"disagree.*\(2, 3\).*\(3, 3\)"),
        (jnp.zeros((2, 3)), lambda z: z[:, :2], r"float32\[2, 3\].*float32\[2, 2\]"),
        (jnp.zeros((2, 3)), lambda z: z.astype(jnp.bfloat16), "bfloat16"),
        (jnp.zeros((2, 3)), lambda z: 0.0, r"f\(z0\) is float32\[\]"),
        (jnp.zeros((2, 3)), lambda z: None, "None"),
        ([jnp.zeros((2, 3))], lambda z: (z[0],), "f must map"),
        (Pair(jnp.zeros((2, 3)), jnp.zeros(2)), tuple, "f must map"),
    ],
)
def test_bad_state_or_map(z0, f, message):
    with pytest.raises(ValueError, match=message):
        solve(lambda z, _: f(z), z0, None, Picard())


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Picard, "max_steps", 0),
        (Broyden, "max_steps", -3),
        (Anderson, "max_steps", 2.0),
        (Picard, "max_steps", True),
        (Picard, "tol", -1e-3),
        (Picard, "tol", float("nan")),
        (Picard, "tol", "1e-3"),
        (Broyden, "stop_mode", "relative"),
        (Broyden, "stop_scope", "device"),
        (Broyden, "memory", 0),
        (Broyden, "memory", 1.5),
        (Broyden, "when_full", "forget"),
        (Anderson, "window", 0),
        (Anderson, "ridge", -1.0),
        (Anderson, "ridge", "0"),
        (Anderson, "mixing", 0.0),
        (Anderson, "mixing", None),
        (Anderson, "ridge_mode", "none"),
        (Picard, "damping", 0.0),
        (Picard, "damping", 1.5),
        (Picard, "damping", "1"),
    ],
)
def test_bad_options_name_the_field_and_the_value(kind, field, value):
    with pytest.raises(ValueError, match=f"{kind.__name__}.{field} is {value!r}; it must be"):
        kind(**{field: value})


@pytest.mark.parametrize("solver", ["broyden", Broyden, None])
def test_a_solver_that_is_none(solver):
    with pytest.raises(ValueError, match=re.escape(f"solver is {solver!r}; it must be an inst")):
        solve(lambda z, _: z, jnp.zeros((2, 3)), None, solver)
