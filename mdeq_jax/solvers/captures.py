"""A map as a function of everything that it depends on."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun
from jaxtyping import PyTree

from mdeq_jax.solvers.common import State, check_map


def without_captures(
    f: Callable[[State, Any], State], z: State, args: PyTree, name: str = "f"
) -> tuple[Callable[[State, PyTree], State], PyTree]:
    """Return f as a function of z and one pytree that holds args and all that f closes over.

    `jax.closure_convert` would leave integers, booleans and keys captured, which a backward pass
    cannot reach from under another transformation, and remember an f whose captures changed since.

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
    hollow = closed.replace(consts=[None] * len(captured))  # `whole` outlives the tracers
    structure = jax.tree.structure(z)

    def whole(z: State, everything: tuple[PyTree, list]) -> State:
        args, captured = everything
        leaves = jaxpr_as_fun(hollow.replace(consts=captured))(*jax.tree.leaves((z, args)))
        return jax.tree.unflatten(structure, leaves)

    return whole, (args, captured)
