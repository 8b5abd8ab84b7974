"""A map as a function of everything that it depends on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import PyTree

from mdeq_jax.solvers.solver import State, check_map


@dataclasses.dataclass(frozen=True, eq=False)
class ClosedMap:
    """A map (z, operands) -> z that closes over no array; operands are args and what f captured.

    Attributes:
      jaxpr: the traced map, without its constants, which would outlive a transformation.
      structure: of a state, a `PyTreeDef`.
    """

    jaxpr: ClosedJaxpr
    structure: Any

    def __call__(self, z: State, operands: tuple[PyTree, list]) -> State:
        """Return f(z, args)."""
        args, captured = operands
        f = jaxpr_as_fun(self.jaxpr.replace(consts=captured))
        return jax.tree.unflatten(self.structure, f(*jax.tree.leaves((z, args))))

    @property
    def has_effects(self) -> bool:
        """Whether the map does more than compute: collectives over a mapped axis, callbacks."""
        return bool(self.jaxpr.effects)


def without_captures(
    f: Callable[[State, Any], State], z: State, args: PyTree, name: str = "f"
) -> tuple[ClosedMap, PyTree]:
    """Return f as a function of z and one pytree that holds args and all that f closes over.

    `jax.closure_convert` would leave integers, booleans and keys captured, which a backward pass
    cannot reach from under another transformation. It also caches by f, so it would return a stale
    function after a captured value changed.

    Args:
      f: the map (z, args) -> z.
      z: a state, for its structure, shapes and dtypes.
      args: a pytree of arrays.
      name: what a message calls f.

    Raises:
      ValueError: f(z, args) has another structure, shape or dtype than z.
    """
    closed, fz = jax.make_jaxpr(lambda z, args: f(z, args), return_shape=True)(z, args)
    check_map(z, fz, name)
    captured = closed.consts
    hollow = closed.replace(consts=[None] * len(captured))
    return ClosedMap(hollow, jax.tree.structure(z)), (args, captured)
