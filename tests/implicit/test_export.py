"""`jax.export` with a symbolic batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.implicit import equilibrium
from mdeq_jax.solvers import Anderson, Broyden, Picard

# Without optimizations JAX cannot call what it exported for a symbolic shape.
pytestmark = pytest.mark.usefixtures("optimized")


@pytest.mark.parametrize(
    "solver",
    [
        Picard(),
        pytest.param(Anderson(), marks=pytest.mark.slow),
        pytest.param(Broyden(200), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_export_for_any_batch(solver):
    def slope(x):
        f = lambda z, x: jnp.tanh(0.3 * z + x)  # noqa: E731
        energy = lambda x: (equilibrium(f, jnp.zeros_like(x), x, solver=solver)[0] ** 2).sum()  # noqa: E731
        return jax.grad(energy)(x)

    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(slope))(jax.ShapeDtypeStruct((batch, 6), jnp.float32))
    x = jnp.linspace(-1, 1, 30).reshape(5, 6)
    expected = jax.jit(slope)(x)
    for size in (1, 5):
        np.testing.assert_allclose(exported.call(x[:size]), expected[:size], rtol=1e-5)
