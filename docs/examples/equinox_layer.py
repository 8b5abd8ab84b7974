"""An equilibrium layer in Equinox: the cell closes over the module, which is a pytree."""

import equinox as eqx
import jax
import jax.numpy as jnp

import mdeq_jax as mx


class Equilibrium(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, x):
        cell = lambda z, x: 0.5 * jnp.tanh(jax.vmap(self.linear)(z) + x)  # noqa: E731
        z, _ = mx.equilibrium(cell, jnp.zeros_like(x), x)
        return z


x = jnp.linspace(-1, 1, 32).reshape(4, 8)
layer = Equilibrium(eqx.nn.Linear(8, 8, key=jax.random.key(0)))
gradient = eqx.filter_grad(lambda layer: (layer(x) ** 2).mean())(layer)
