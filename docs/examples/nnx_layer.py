"""An equilibrium layer in Flax NNX: the cell closes over the module's parameters."""

import jax.numpy as jnp
from flax import nnx

import mdeq_jax as mx


class Equilibrium(nnx.Module):
    def __init__(self, width, *, rngs):
        init = nnx.initializers.normal(0.1)
        self.linear = nnx.Linear(width, width, kernel_init=init, rngs=rngs)

    def __call__(self, x):
        z, _ = mx.equilibrium(lambda z, x: nnx.tanh(self.linear(z) + x), jnp.zeros_like(x), x)
        return z


x = jnp.linspace(-1, 1, 32).reshape(4, 8)
layer = Equilibrium(8, rngs=nnx.Rngs(0))
gradient = nnx.grad(lambda layer: (layer(x) ** 2).mean())(layer)
