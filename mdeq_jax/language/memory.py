"""Memories of other lengths."""

import jax.numpy as jnp

from mdeq_jax.language.model.language_model import Memory


def shortened(memory: Memory, positions: int) -> Memory:
    """Return the last positions of a memory."""
    first = memory.z.shape[1] - positions
    filled = jnp.minimum(memory.filled, positions)
    return Memory(memory.z[:, first:], memory.u[:, first:], filled)


def lengthened(memory: Memory, positions: int) -> Memory:
    """Return a memory with empty positions before the others, to a number of positions."""
    missing = positions - memory.z.shape[1]
    z, u = (jnp.pad(x, ((0, 0), (missing, 0), (0, 0))) for x in (memory.z, memory.u))
    return Memory(z, u, memory.filled)
