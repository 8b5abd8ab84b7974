"""Generated problems of optimising over the input of an equilibrium."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mdeq_jax.implicit.augmented import Cost, Map


class Shape(NamedTuple):
    """What tells the problems apart.

    Attributes:
      state: entries of z.
      inputs: entries of x.
      linear: whether f is linear; otherwise it is a tanh layer.
      scale: the cost is multiplied by this number.
    """

    state: int = 40
    inputs: int = 8
    linear: bool = False
    scale: float = 1.0


PROBLEMS = {
    "toy": Shape(),
    "linear": Shape(linear=True),
    "wide": Shape(state=200, inputs=50),
    "cost / 1000": Shape(scale=1e-3),
    "cost * 1000": Shape(scale=1e3),
}


class Problem(NamedTuple):
    """A problem as `mdeq_jax.optimise` takes it: ``optimise(*problem)``."""

    f: Map
    cost: Cost
    z0: Float[Array, "B state"]
    x0: Float[Array, "B inputs"]
    args: Any


def linear(z: Array, x: Array, args: Any) -> Array:
    """Return z A + x B."""
    return z @ args["a"] + x @ args["b"]


def tanh_layer(z: Array, x: Array, args: Any) -> Array:
    """Return tanh(z A + x B)."""
    return jnp.tanh(linear(z, x, args))


def cost(z: Array, x: Array, args: Any) -> Float[Array, " B"]:
    """Return scale · (½‖z − y‖² + ½ · 0.01 ‖x‖²) of each sample."""
    squares = jnp.sum((z - args["y"]) ** 2, axis=-1) + 0.01 * jnp.sum(x**2, axis=-1)
    return args["scale"] * squares / 2


def make(name: str, seed: int, samples: int = 6) -> Problem:
    """Return a problem in float64, with targets that no input reaches exactly.

    Args:
      name: a key of `PROBLEMS`.
      seed: the seed of its weights and targets.
      samples: B, the number of targets.
    """
    shape, rng = PROBLEMS[name], np.random.default_rng(seed)
    a = rng.normal(size=(shape.state, shape.state))
    args = {
        "a": 0.9 * a / np.linalg.norm(a, ord=2),
        "b": rng.normal(size=(shape.inputs, shape.state)) / np.sqrt(shape.inputs),
        "y": 0.7 * np.tanh(rng.normal(size=(samples, shape.state))),
        "scale": np.float64(shape.scale),
    }
    z0, x0 = (jnp.zeros((samples, n)) for n in (shape.state, shape.inputs))
    f = linear if shape.linear else tanh_layer
    return Problem(f, cost, z0, x0, {name: jnp.asarray(x) for name, x in args.items()})
