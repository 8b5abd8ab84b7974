"""Tied applications of the cell with ordinary backpropagation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, layer, random_args, start

from mdeq_jax.implicit import DEQ, Unrolled, equilibrium
from mdeq_jax.solvers import Status


@pytest.mark.parametrize("checkpoint", [False, True])
def test_values_and_gradients_are_those_of_a_network_of_tied_layers(x64, checkpoint):
    args = random_args()

    def unrolled(args):
        adjoint = Unrolled(3, checkpoint)
        z, r = equilibrium(layer, start(args), args, solver=TIGHT, adjoint=adjoint)
        return jnp.sin(z).sum(), r

    def network(args):
        z, states = start(args), []
        for _ in range(3):
            z = layer(z, args)
            states.append(z)
        return jnp.sin(z).sum(), states

    ours, r = jax.jit(jax.grad(unrolled, has_aux=True))(args)
    expected, states = jax.jit(jax.grad(network, has_aux=True))(args)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10), ours, expected)
    np.testing.assert_array_equal(r.steps, 3)
    np.testing.assert_array_equal(r.best_step, 3)
    norm = functools.partial(np.linalg.norm, axis=1)
    before = [start(args), *states[:2]]
    trace = [norm(z - b) / norm(z) for z, b in zip(states, before, strict=True)]
    np.testing.assert_allclose(r.trace, trace, rtol=1e-10)
    np.testing.assert_array_equal(r.residual, r.trace[-1])
    assert not r.converged.any()
    np.testing.assert_array_equal(r.status, Status.STEP_LIMIT)


def test_no_application_is_the_start():
    args = random_args()
    z, r = jax.jit(lambda: equilibrium(layer, start(args), args, adjoint=Unrolled(0)))()
    np.testing.assert_array_equal(z, start(args))
    np.testing.assert_array_equal(r.residual, np.inf)
    assert r.trace.shape == (0, 3)


def test_recomputation_keeps_no_more_than_the_states():
    """What the backward pass is handed: with checkpoints, a state and no inner value."""

    def wide(z, weight):
        return jnp.tanh(jnp.repeat(z, 50, axis=1) * weight[None]).reshape(4, 50, 8).sum(axis=1)

    def kept(checkpoint):
        def loss(weight):
            return equilibrium(wide, jnp.ones((4, 8)), weight, adjoint=Unrolled(6, checkpoint))[
                0
            ].sum()

        _, pullback = jax.vjp(loss, jnp.ones(400))
        return sum(x.size for x in jax.tree.leaves(pullback))

    assert kept(True) < 4 * 8 * 10 + 400 * 10 < kept(False)


@pytest.mark.parametrize(
    ("field", "value"), [("steps", -1), ("steps", 2.0), ("steps", True), ("checkpoint", 1)]
)
def test_bad_options_name_the_field_and_the_value(field, value):
    with pytest.raises(ValueError, match=f"Unrolled.{field} is {value!r}; it must be"):
        Unrolled(**{"steps": 2, field: value})


def test_sampled_states_have_the_ordinary_gradient(x64):
    args = random_args()
    deq = DEQ(TIGHT, Unrolled(4), sample_at=(1, 3))

    def ours(args):
        solution = deq(layer, start(args), args)
        return sum(jnp.sin(z).sum() for z in (*solution.sampled, solution.z))

    def network(args):
        states = [start(args)]
        for _ in range(4):
            states.append(layer(states[-1], args))
        return sum(jnp.sin(states[k]).sum() for k in (1, 3, 4))

    found, expected = (jax.jit(jax.value_and_grad(f))(args) for f in (ours, network))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10)
    jax.tree.map(close, found[1], expected[1])


def test_states_after_more_applications_than_there_are():
    args = random_args()
    with pytest.raises(ValueError, match="the number of applications, which is 2"):
        DEQ(TIGHT, Unrolled(2), sample_at=(1, 3))(layer, start(args), args)
