"""The latent code that shows an observed image best, found together with its equilibrium.

minimise Σ visible · (h(z) − pixels)² + prior · ‖x‖² over x, where z = f(z, x)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mdeq_jax.implicit import Solution
from mdeq_jax.implicit.optimise import Optimum, Steps, optimise
from mdeq_jax.inverse.generation.model.generator import Generator
from mdeq_jax.layers.multiscale import State


class Observation(NamedTuple):
    """What is known of some images.

    Attributes:
      pixels: the images; pixels without noise are in [0, 1].
      visible: 1 where a pixel is known, 0 where it is hidden.
      prior: weight of ‖x‖², at least 0.
    """

    pixels: Float[Array, "B H W C"]
    visible: Float[Array, "B H W 1"]
    prior: Float[Array, " B"]


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The optimisation problem of a generator.

    Attributes:
      model: the generator.
      steps: step sizes of the augmented map.
    """

    model: Generator
    steps: Steps

    def __call__(
        self,
        params: PyTree,
        seen: Observation,
        x0: Float[Array, "B n"],
        layer: Callable[..., Solution],
    ) -> Optimum:
        """Return the best latent codes, from the state 0.

        Args:
          params: parameters of the generator, with plain kernels.
          seen: what is known of the images.
          x0: latent codes to start from.
          layer: finds the fixed point of the augmented map: a `DEQ`, or the layer of a run.
        """
        args = params, seen
        return optimise(self.cell, self.cost, self.start(x0), x0, args, deq=layer, steps=self.steps)

    def start(self, x: Float[Array, "B n"]) -> State:
        """Return the state 0 of latent codes."""
        z0: Any = self.model.apply({}, x, method="start")
        return z0

    def cell(self, z: State, x: Float[Array, "B n"], args: tuple[PyTree, Any]) -> State:
        """Return f(z, x) with parameters with plain kernels, the first of the arguments."""
        return self.model.apply({"params": args[0]}, z, x, method="cell")

    def cost(
        self, z: State, x: Float[Array, "B n"], args: tuple[PyTree, Observation]
    ) -> Float[Array, " B"]:
        """Return the squared error of the visible pixels, and the prior."""
        params, seen = args
        error = seen.visible * (self.image(params, z) - seen.pixels)
        return jnp.square(error).sum(axis=(1, 2, 3)) + seen.prior * jnp.square(x).sum(axis=-1)

    def image(self, params: PyTree, z: State) -> Float[Array, "B H W C"]:
        """Return the images h(z), with pixels in [0, 1]."""
        return self.model.apply({"params": params}, z, method="image")
