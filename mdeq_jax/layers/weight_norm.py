"""Weight normalisation (Salimans and Kingma, arXiv 1602.07868) as a transform of parameter trees.

A network is written with plain kernels; `split` turns some of them into direction and length, which
are trained and stored. `merge` turns them back, once per solve.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

Params = Mapping[str, Any]


def split(params: Params, where: Callable[[str], bool]) -> dict[str, Any]:
    """Replace each chosen ``kernel`` by its direction v = kernel and its length g = ‖v‖.

    Args:
      params: nested parameters; a kernel's last axis is its output channel.
      where: returns, for the name of a top-level entry, whether the kernels in it are normalised.

    Returns:
      The same tree with ``{"g": (O,), "v": (..., O)}`` in place of each chosen ``kernel``; `merge`
      restores the kernels.
    """
    return {name: _split_all(child) if where(name) else child for name, child in params.items()}


def _split_all(params: Params) -> dict[str, Any]:
    new = {}
    for name, child in params.items():
        if isinstance(child, Mapping):
            new[name] = _split_all(child)
        elif name == "kernel":
            new |= {"g": _length(child), "v": child}
        else:
            new[name] = child
    return new


def merge(params: Params) -> dict[str, Any]:
    """Replace each pair of g and v by ``kernel`` = g v / ‖v‖, with one norm per output channel.

    Args:
      params: nested parameters, as `split` returns them.

    Returns:
      The same tree with kernels only.
    """
    if "v" in params:
        rest = {name: child for name, child in params.items() if name not in ("g", "v")}
        return rest | {"kernel": params["v"] * (params["g"] / _length(params["v"]))}
    return {name: merge(p) if isinstance(p, Mapping) else p for name, p in params.items()}


def _length(v: Float[Array, "... O"]) -> Float[Array, " O"]:
    return jnp.sqrt(jnp.sum(jnp.square(v), axis=tuple(range(v.ndim - 1))))
