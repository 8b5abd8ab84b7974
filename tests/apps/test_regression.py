"""The one-dimensional equilibrium model, and what holding its Jacobian down does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.apps.regression import draw_pairs, fit, init_layer, layer


@pytest.mark.slow
def test_steps_fall_as_the_jacobian_is_held_down(x64):
    free, held, firmly = (fit(gamma, steps=400) for gamma in (0.0, 0.5, 8.0))
    assert free.steps > held.steps > firmly.steps
    assert free.slope > held.slope > firmly.slope
    # In float64: float32 does not reach the relative tolerance where the curve crosses 0.
    assert free.converged == held.converged == firmly.converged == 1
    # The noise of the pairs has variance 0.05; the curve's own is about 9.
    assert max(free.error, held.error, firmly.error) < 0.3


def test_about_two_hundred_parameters_and_the_curve():
    params = init_layer(jax.random.key(0))
    assert sum(x.size for x in params) == 200
    x, y = draw_pairs(jax.random.key(1), 4000)
    assert abs(x).max() < 2
    noise = y - (1.5 * x**3 + x**2 - 5 * x + 2 * jnp.sin(x) - 3)
    np.testing.assert_allclose(noise.std(), 0.05**0.5, rtol=0.1)


def test_the_layer():
    params = init_layer(jax.random.key(0))
    z, x = jnp.array([[0.3]]), jnp.array([[1.2]])
    hidden = np.maximum(0.3 * params.w1[0] + 1.2 * params.u[0] + params.b, 0)
    np.testing.assert_allclose(layer(z, (params, x))[0, 0], hidden @ params.w2[:, 0], rtol=1e-5)


@pytest.mark.parametrize(("gamma", "steps"), [(-1.0, 10), (0.0, 0)])
def test_bad_options(gamma, steps):
    with pytest.raises(ValueError, match=rf"gamma is {gamma} and steps {steps}"):
        fit(gamma, steps=steps)
