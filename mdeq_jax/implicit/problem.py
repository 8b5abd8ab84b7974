"""A fixed-point problem as one value, which a model hands to the layer that solves it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import PyTree

from mdeq_jax.solvers import State


class FixedPointProblem(NamedTuple):
    """z = f(z, args), to be solved from z0: ``deq(*problem)``.

    Attributes:
      f: the map (z, args) -> z, pure, each sample of the batch by itself.
      z0: where the solve starts, a pytree of floating-point arrays (B, ...).
      args: any pytree of arrays; gradients are taken with respect to them.
    """

    f: Callable[[State, Any], State]
    z0: State
    args: PyTree
