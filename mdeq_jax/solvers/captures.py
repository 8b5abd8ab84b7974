"""A map as a pytree that holds everything the map depends on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, PyTree

from mdeq_jax.solvers.norms import norm
from mdeq_jax.solvers.solver import State, check_map, check_per_sample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ClosedMap:
    """A map of a state, as a pytree: the arrays that it captured are its leaves.

    It can therefore be an argument of a transformed function, and is differentiated like one.

    Attributes:
      captured: the arrays that the map closed over.
      jaxpr: the traced map, without these arrays, which would outlive a transformation.
      structure: `PyTreeDef` of what the map returns, of a state for a map of states.
    """

    captured: list[Array]
    jaxpr: ClosedJaxpr = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, z: State, args: PyTree = None) -> State:
        """Return f(z, args), or f(z) for a map that was traced without arguments."""
        f = jaxpr_as_fun(self.jaxpr.replace(consts=self.captured))
        return jax.tree.unflatten(self.structure, f(*jax.tree.leaves((z, args))))

    @property
    def has_effects(self) -> bool:
        """Whether the map has effects: collectives over a mapped axis, or callbacks."""
        return bool(self.jaxpr.effects)


def without_captures(
    f: Callable[..., State], z: State, *args: PyTree, name: str = "f"
) -> ClosedMap:
    """Return f as a `ClosedMap`, which closes over no array.

    Args:
      f: the map (z, args) -> z, or z -> z if no args are given.
      z: a state, for its structure, shapes and dtypes.
      args: at most one pytree of arrays.
      name: what a message calls f.

    Raises:
      ValueError: a leaf of args is not an array, or f returns another structure, shape or dtype
        than z has.
    """
    closed, fz = closed_map(f, z, *args)
    check_map(z, fz, name)
    return closed


def closed_map(f: Callable[..., PyTree], z: PyTree, *args: PyTree) -> tuple[ClosedMap, PyTree]:
    """Return f as a `ClosedMap`, whatever it returns, and the shapes and dtypes of what it returns.

    `jax.closure_convert` would leave integers, booleans and keys captured, which a backward pass
    cannot reach from under another transformation. It also caches by f, so it would return a stale
    function after a captured value changed.

    Args:
      f: the function of z and args, or of z alone if no args are given.
      z: a pytree of arrays, for its structure, shapes and dtypes.
      args: at most one pytree of arrays.

    Raises:
      ValueError: a leaf of args is not an array.
    """
    _check_args(args)
    closed, returned = jax.make_jaxpr(lambda *operands: f(*operands), return_shape=True)(z, *args)
    empty = closed.replace(consts=[None] * len(closed.consts))
    return ClosedMap(closed.consts, empty, jax.tree.structure(returned)), returned


def closed_merit(merit: Callable[[State, Array], Array] | None, z: State) -> ClosedMap | None:
    """Return a merit as a `ClosedMap`, or None if it is None.

    Args:
      merit: the function (z, residual) -> (B,).
      z: a state, for its structure, shapes and dtypes.

    Raises:
      ValueError: merit does not return one floating-point number for each sample.
    """
    if merit is None:
        return None
    closed, returned = closed_map(merit, z, norm(z))
    check_per_sample("merit", returned, z)
    return closed


def _check_args(args: tuple[PyTree, ...]) -> None:
    for path, leaf in jax.tree.leaves_with_path(args[0] if args else None):
        try:
            jax.typeof(leaf)
        except TypeError:
            raise ValueError(
                f"args{jax.tree_util.keystr(path)} is {leaf!r}, which is no array; let f close over"
                " it instead."
            ) from None
