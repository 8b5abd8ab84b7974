"""Temporary memory of a compiled gradient."""

import jax
import jax.numpy as jnp
import pytest

from mdeq_jax.implicit import Exact, equilibrium
from mdeq_jax.solvers import Broyden, Picard

pytestmark = pytest.mark.usefixtures("optimized")

SHAPE = (2, 8000)
STATE_BYTES = 4 * 2 * 8000


def temporary_bytes(solver):
    def loss(bias):
        f = lambda z, bias: jnp.tanh(0.5 * z + bias)  # noqa: E731
        z, _ = equilibrium(f, jnp.zeros(SHAPE), bias, solver=solver, adjoint=Exact(solver))
        return jnp.sum(z**2)

    bias = jnp.zeros(SHAPE)
    return jax.jit(jax.grad(loss)).lower(bias).compile().memory_analysis().temp_size_in_bytes


def test_picard_takes_the_same_memory_for_any_number_of_steps():
    few, many = (temporary_bytes(Picard(max_steps=n)) for n in (10, 100))
    assert few > STATE_BYTES
    assert abs(many - few) < 0.02 * few


def test_broyden_takes_one_state_per_step():
    """No row of history more than asked for, and the backward solve reuses the forward one's."""
    few, many, bounded = (
        temporary_bytes(solver)
        for solver in (Broyden(max_steps=10), Broyden(max_steps=100), Broyden(100, memory=10))
    )
    assert 90 * STATE_BYTES <= many - few <= 1.2 * 90 * STATE_BYTES
    assert abs(bounded - few) < 0.02 * few
