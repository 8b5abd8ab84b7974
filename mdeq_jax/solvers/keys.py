"""Random numbers of a solve: each sample draws from its own key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mdeq_jax.solvers.solver import State


def sample_keys(
    key: Key[Array, "..."] | None, like: State, first: Int[Array, ""] | int = 0
) -> Key[Array, " B"] | None:
    """Return one key for each sample, or None if there is no key.

    Args:
      key: one key, which is folded with the number of each sample; or an array of keys (B,), one
        for each sample, which is returned as it is.
      like: a state, leaves (B, ...); only its batch is used.
      first: number of the first sample in the whole batch; may be traced. Under `shard_map` it is
        ``axis_index · B``: the keys then do not depend on the number of devices.

    Raises:
      ValueError: key is no key, or an array of another shape.

    Examples:
      The second half of a batch has the keys that it has in the whole batch:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from mdeq_jax.solvers import sample_keys
      >>> key = jax.random.key(0)
      >>> whole = sample_keys(key, jnp.zeros((8, 3)))
      >>> half = sample_keys(key, jnp.zeros((4, 3)), first=4)
      >>> bool((half == whole[4:]).all())
      True
    """
    if key is None:
        return None
    batch = jax.tree.leaves(like)[0].shape[0]
    keys = jnp.asarray(key)
    if keys.dtype == jnp.uint32:  # from `jax.random.PRNGKey`
        keys = jax.random.wrap_key_data(keys)
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(f"key is {key!r}; it must be a key, such as jax.random.key(0).")
    if keys.shape == ():
        numbers = first + jnp.arange(batch, dtype=jnp.result_type(first))
        return jax.vmap(jax.random.fold_in, (None, 0))(keys, numbers)
    if keys.shape != (batch,):
        raise ValueError(
            f"key has shape {keys.shape}; give one key, or one per sample, of shape ({batch},)."
        )
    return keys


def fold_in_each(
    keys: Key[Array, " B"] | None, number: Int[Array, ""] | int
) -> Key[Array, " B"] | None:
    """Return the keys, each folded with the same number; None if there are no keys."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def normal_like(keys: Key[Array, " B"], like: State) -> State:
    """Return a draw from N(0, I), of the structure, shapes and dtypes of `like`.

    Args:
      keys: one key for each sample.
      like: a state, leaves (B, ...); only shapes and dtypes are used.
    """
    leaves, structure = jax.tree.flatten(like)

    def draw(key: Key[Array, ""]) -> list[Array]:
        each = zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        return [jax.random.normal(key, x.shape[1:], x.dtype) for key, x in each]

    return structure.unflatten(jax.vmap(draw)(keys))
