"""The latent code that shows an observed image best, found together with its equilibrium.

minimise Σ visible · (h(z) − pixels)² + (x − m)ᵀ P (x − m) over x, where z = f(z, x)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from mdeq_jax.implicit import FixedPointProblem, Solution
from mdeq_jax.implicit.optimise import Optimum, Steps, optimise
from mdeq_jax.inverse.generation.model.generator import Generator
from mdeq_jax.inverse.generation.observations import Observation
from mdeq_jax.layers import weight_norm
from mdeq_jax.layers.multiscale import State

Variables = Mapping[str, PyTree]


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The generator's equilibrium, and the optimisation of its latent codes.

    Attributes:
      model: the generator; its parameters are ``variables["params"]["generator"]``.
      steps: step sizes of the augmented map.
    """

    model: Generator
    steps: Steps

    def restore(
        self, variables: Variables, seen: Observation, layer: Callable[..., Solution]
    ) -> Optimum:
        """Return the best latent codes, from the mean of the prior and the state 0.

        Args:
          variables: the variables, with weight-normed kernels as direction and length.
          seen: what is known of the images.
          layer: finds the fixed point of the augmented map: a `DEQ`, or the layer of a run.
        """
        shape = len(seen.pixels), self.model.config.latent_size
        x0 = jnp.broadcast_to(seen.prior.mean, shape).astype(seen.pixels.dtype)
        args = plain_kernels(variables), seen
        z0 = self.start(x0)
        return optimise(self.cell, self.cost, z0, x0, args, deq=layer, steps=self.steps)

    def problem(self, variables: Variables, x: Float[Array, "B n"]) -> FixedPointProblem:
        """Return the fixed-point problem of given latent codes."""
        f = lambda z, args: self.cell(z, args[1], args)  # noqa: E731
        return FixedPointProblem(f, self.start(x), (plain_kernels(variables), x))

    def start(self, x: Float[Array, "B n"]) -> State:
        """Return the state 0 of latent codes."""
        z0: Any = self.model.apply({}, x, method="start")
        return z0

    def cell(self, z: State, x: Float[Array, "B n"], args: tuple[PyTree, Any]) -> State:
        """Return f(z, x).

        Args:
          z: the state.
          x: latent codes.
          args: parameters with plain kernels, and anything.
        """
        fz: Any = self.model.apply({"params": args[0]}, z, x, method="cell")
        return fz

    def cost(
        self, z: State, x: Float[Array, "B n"], args: tuple[PyTree, Observation]
    ) -> Float[Array, " B"]:
        """Return the squared error of the visible pixels, and the prior.

        Args:
          z: the state.
          x: latent codes.
          args: parameters with plain kernels, and what is known of the images.
        """
        params, seen = args
        error = seen.visible * (self._image(params, z) - seen.pixels)
        return jnp.square(error).sum(axis=(1, 2, 3)) + seen.prior.cost(x)

    def image(self, variables: Variables, z: State) -> Float[Array, "B H W C"]:
        """Return the images h(z), with pixels in [0, 1]."""
        return self._image(plain_kernels(variables), z)

    def _image(self, params: PyTree, z: State) -> Float[Array, "B H W C"]:
        image: Any = self.model.apply({"params": params}, z, method="image")
        return image


def plain_kernels(variables: Variables) -> PyTree:
    """Return the generator's parameters, with weight-normed kernels as plain ones."""
    return weight_norm.merge(variables["params"]["generator"])
