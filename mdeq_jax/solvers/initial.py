"""Initial states, drawn for each sample from its own key."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mdeq_jax.checks import require_one_of
from mdeq_jax.solvers.keys import sample_keys
from mdeq_jax.solvers.norms import select
from mdeq_jax.solvers.solver import State

Kind = Literal["zeros", "normal", "mixed", "mixed_samples"]


def initial_state(
    key: PRNGKeyArray, like: State, kind: Kind, first: Int[Array, ""] | int = 0
) -> State:
    """Return a state to start a solve from, of the structure, shapes and dtypes of `like`.

    A sample's state depends on the key and on the sample's number in the whole batch, not on how
    the batch is split over devices or microbatches.

    Args:
      key: from which the state is drawn; not used for "zeros".
      like: a state, leaves (B, ...); only shapes and dtypes are used.
      kind: "zeros"; "normal", N(0, 1) in each entry; "mixed", where each entry is normal or 0 with
        probability 1/2; "mixed_samples", where each sample is normal or 0 as a whole with
        probability 1/2.
      first: number of the first sample in the whole batch; may be traced. Under `shard_map` it is
        ``axis_index · B``.

    Raises:
      ValueError: kind is none of these.

    Examples:
      The second half of a batch, drawn by itself, has the values that it has in the whole batch:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> key = jax.random.key(0)
      >>> whole = mx.initial_state(key, jnp.zeros((8, 3)), "mixed")
      >>> half = mx.initial_state(key, jnp.zeros((4, 3)), "mixed", first=4)
      >>> bool((half == whole[4:]).all())
      True

    Source: Anil et al., "Path Independent Equilibrium Models Can Better Exploit Test-Time
    Computation", NeurIPS 2022; `mixed_init` in `torchdeq/utils/init.py`, locuslab/torchdeq, which
    is "mixed".
    """
    require_one_of("kind", kind, get_args(Kind))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    normal_key, mask_key = jax.random.split(key)
    if kind == "zeros":
        return zeros
    normal = normal_samples(normal_key, like, first)
    if kind == "normal":
        return normal
    if kind == "mixed_samples":
        keys = sample_keys(mask_key, like, first)
        chosen = jax.vmap(lambda key: _coins(key, ()))(keys)
        return select(chosen, normal, zeros)
    masks = _draw(_coins, mask_key, like, first)
    return jax.tree.map(jnp.where, masks, normal, zeros)


def normal_samples(key: PRNGKeyArray, like: State, first: Int[Array, ""] | int = 0) -> State:
    """Return a draw from N(0, I), of the structure, shapes and dtypes of `like`.

    Args:
      key: from which the state is drawn.
      like: a state, leaves (B, ...); only shapes and dtypes are used.
      first: number of the first sample in the whole batch; may be traced.
    """
    return _draw(jax.random.normal, key, like, first)


def _coins(key: PRNGKeyArray, shape: tuple[int, ...], _: object = None) -> Bool[Array, "..."]:
    return jax.random.bernoulli(key, 0.5, shape)


def _draw(
    draw: Callable[..., Float[Array, "..."] | Bool[Array, "..."]],
    key: PRNGKeyArray,
    like: State,
    first: Int[Array, ""] | int,
) -> State:
    """Return a draw; the key of a leaf of a sample follows from both their numbers."""
    leaves, structure = jax.tree.flatten(like)

    def of_samples(key: PRNGKeyArray, x: Array) -> Array:
        keys = sample_keys(key, like, first)
        return jax.vmap(lambda key: draw(key, x.shape[1:], x.dtype))(keys)

    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([of_samples(k, x) for k, x in zip(keys, leaves, strict=True)])
