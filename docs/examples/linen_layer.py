"""An equilibrium layer in Flax Linen: the cell is a module of its own, applied as a function."""

import jax
import jax.numpy as jnp
from flax import linen as nn

import mdeq_jax as mx


class Cell(nn.Module):
    @nn.compact
    def __call__(self, z, x):
        return nn.tanh(nn.Dense(z.shape[-1], kernel_init=nn.initializers.normal(0.1))(z) + x)


class Equilibrium(nn.Module):
    @nn.compact
    def __call__(self, x):
        cell = Cell(parent=None)
        params = self.param("cell", cell.init, x, x)
        z, _ = mx.equilibrium(
            lambda z, args: cell.apply(args[0], z, args[1]), jnp.zeros_like(x), (params, x)
        )
        return z


x = jnp.linspace(-1, 1, 32).reshape(4, 8)
layer = Equilibrium()
variables = layer.init(jax.random.key(0), x)
gradient = jax.grad(lambda variables: (layer.apply(variables, x) ** 2).mean())(variables)
