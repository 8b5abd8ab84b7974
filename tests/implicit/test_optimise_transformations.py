"""The optimum over the input of an equilibrium, under the transformations of JAX."""

import jax
import jax.numpy as jnp
import pytest
from input_problems import onto_ball, random_args, readout, solved, total_cost, trees_close
from jax.sharding import AxisType, PartitionSpec

PER_SAMPLE = ("bias", "target")


def both_losses(args):
    optimum = solved(args, project=onto_ball(args))
    return total_cost(optimum) + readout(optimum), optimum.result.steps


def test_vmap(x64):
    """Over problems that differ in all weights but one."""
    gradient = jax.grad(both_losses, has_aux=True)
    several = [random_args(seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *several) | {"price": several[0]["price"]}
    axes = {name: None if name == "price" else 0 for name in stacked}
    ours = jax.jit(jax.vmap(gradient, in_axes=(axes,)))(stacked)
    one = jax.jit(gradient)
    trees_close(ours, jax.tree.map(lambda *x: jnp.stack(x), *map(one, several)))


def test_shard_map(x64):
    """Weights are on all devices; the batch is split, so devices stop after different steps."""
    args = random_args(size=8)
    args["target"] = args["target"] * jnp.logspace(-3, 1, 8)[:, None]

    def gradient(args):
        def loss(args):
            optimum = solved(args)
            return jnp.sum(jnp.sin(optimum.x)) + optimum.cost.sum(), optimum.result.steps

        return jax.grad(loss, has_aux=True)(args)

    split, whole = PartitionSpec("data"), PartitionSpec()
    specs = {name: split if name in PER_SAMPLE else whole for name in args}
    four = {"devices": jax.devices()[:4], "axis_types": (AxisType.Auto,)}
    mesh = jax.make_mesh((4,), ("data",), **four)
    options = {"in_specs": (specs,), "out_specs": (specs, split)}
    sharded = jax.jit(jax.shard_map(gradient, mesh=mesh, **options))
    ours, expected = sharded(args), jax.jit(gradient)(args)
    trees_close(ours, expected)
    assert len(set(expected[1].tolist())) > 1


@pytest.mark.slow
def test_no_tracer_outlives_its_transformation():
    def closing_over(price):
        return both_losses({**random_args(), "price": price})[0]

    with jax.checking_leaks():
        jax.jit(jax.grad(closing_over))(0.5)
