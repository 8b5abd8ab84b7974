"""Phantom gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, layer, random_args, start

from mdeq_jax.implicit import JacobianFree, Phantom, equilibrium


@jax.jit
def gradient(args, adjoint):
    """Gradient for the cotangent sin(z*), and the state."""

    def loss(args):
        z, _ = equilibrium(layer, start(args), args, solver=TIGHT, adjoint=adjoint)
        return jnp.vdot(jax.lax.stop_gradient(jnp.sin(z)), z), z

    return jax.grad(loss, has_aux=True)(args)


def test_one_full_step_is_jacobian_free(x64):
    args = random_args()
    ours, z = gradient(args, Phantom(steps=1, damping=1.0))
    expected, z_free = gradient(args, JacobianFree())
    np.testing.assert_allclose(z, z_free, atol=1e-12)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), ours, expected)


def test_at_the_fixed_point_it_is_a_neumann_series(x64):
    """g τ Σ_{i<k} (τJ + (1−τ)I)^i, pulled back once."""
    args, steps, damping = random_args(), 5, 0.5
    ours, z = gradient(args, Phantom(steps, damping))
    _, pullback = jax.vjp(layer, z, args)
    term = damping * jnp.sin(z)
    total = term
    for _ in range(steps - 1):
        term = damping * pullback(term)[0] + (1 - damping) * term
        total += term
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), ours, pullback(total)[1])


def test_the_state_is_the_one_after_the_damped_steps(x64):
    """From the start itself, where a step limit of 0 leaves the solve."""
    args = random_args()
    adjoint = Phantom(steps=3, damping=0.4)
    z, r = equilibrium(layer, start(args), args, solver=TIGHT, adjoint=adjoint, step_limit=0)
    expected = start(args)
    for _ in range(3):
        expected = 0.6 * expected + 0.4 * layer(expected, args)
    np.testing.assert_allclose(z, expected, rtol=1e-12)
    np.testing.assert_array_equal(r.z, z)
    np.testing.assert_array_equal(r.steps, 0)


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("steps", 1.5), ("damping", 0.0), ("damping", 1.1)]
)
def test_bad_options_name_the_field_and_the_value(field, value):
    with pytest.raises(ValueError, match=f"Phantom.{field} is {value!r}; it must be"):
        Phantom(**{field: value})
