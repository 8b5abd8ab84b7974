"""An equilibrium under `shard_map`, on simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, layer, random_args, start
from hlo import COLLECTIVE, loop_bodies
from jax.sharding import AxisType, PartitionSpec

from mdeq_jax.implicit import Exact, Phantom, Shine, equilibrium
from mdeq_jax.solvers import Anderson, Broyden

SPECS = {
    "weight": PartitionSpec(),
    "inject": PartitionSpec(),
    "bias": PartitionSpec(),
    "x": PartitionSpec("data"),
}


def on_devices(function, out_specs):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(SPECS,), out_specs=out_specs))


def gradient_of(solver, adjoint):
    def loss(args):
        z, r = equilibrium(layer, start(args), args, solver=solver, adjoint=adjoint)
        return jnp.sum(jnp.sin(3 * z)), r.steps

    return jax.grad(loss, has_aux=True)


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        (Broyden(60, 1e-13), Exact(Broyden(60, 1e-13))),
        (Anderson(200, 1e-13), Phantom()),
        # SHINE divides by the last steps, so rounding grows as the tolerance falls.
        (Broyden(60, 1e-5), Shine(refine=2)),
    ],
    ids=["broyden", "anderson-phantom", "shine"],
)
def test_gradients_are_those_of_one_device(x64, solver, adjoint):
    args = random_args(size=16)
    args["x"] = args["x"] * jnp.linspace(0, 3, 16)[:, None]  # devices stop at different steps
    gradient = gradient_of(solver, adjoint)
    sharded = on_devices(gradient, (SPECS, PartitionSpec("data"))).lower(args).compile()
    ours, steps = sharded(args)
    expected, steps_alone = jax.jit(gradient)(args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), ours, expected)
    np.testing.assert_array_equal(steps, steps_alone)
    assert len(set(steps.reshape(8, 2).max(axis=1).tolist())) > 1

    hlo = sharded.as_text()
    bodies = loop_bodies(hlo)
    assert bodies
    assert COLLECTIVE.search(hlo)  # the sum of the weights' gradients
    assert not any(COLLECTIVE.search(body) for body in bodies)


def test_second_derivatives(x64):
    def force(args):
        def energy(x):
            z, _ = equilibrium(layer, start(args), {**args, "x": x}, solver=TIGHT)
            return jnp.sum(jnp.sin(3 * z))

        return jnp.sum(jax.grad(energy)(args["x"]) ** 2)

    args = random_args(size=8, dim=3)
    ours = on_devices(jax.grad(force), SPECS)(args)
    expected = jax.jit(jax.grad(force))(args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), ours, expected)


def test_captured_weights_and_a_probe(x64):
    """What a device closes over may be one copy for all, while its probe is its own."""

    def gradient(args):
        def loss(weight, probe):
            def f(z, args):
                return layer(z, {**args, "weight": weight})

            z, _ = equilibrium(f, start(args), args, solver=TIGHT, adjoint_probe=probe)
            return jnp.sum(jnp.sin(3 * z))

        probe = jnp.zeros_like(args["x"])
        return jax.grad(loss, (0, 1))(args["weight"], probe)

    args = random_args(size=16)
    ours = on_devices(gradient, (PartitionSpec(), PartitionSpec("data")))(args)
    expected = jax.jit(gradient)(args)
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-9)
    np.testing.assert_array_equal(ours[1][:, 0], expected[1][:, 0])
