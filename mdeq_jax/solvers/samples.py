"""States that are sampled during a solve: the best iterates after given numbers of steps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from mdeq_jax.solvers.solver import State

Samples = PyTree[Float[Array, "n B ..."]] | None


def check_samples(sample_at: tuple[int, ...], last: int, last_name: str = "max_steps") -> None:
    """Raise ValueError unless sample_at has rising whole numbers in [1, last]."""
    are_ints = isinstance(sample_at, Sequence) and all(type(n) is int for n in sample_at)
    if not are_ints or sorted({0, *sample_at, last + 1}) != [0, *sample_at, last + 1]:
        raise ValueError(
            f"sample_at is {sample_at!r}; it must be rising whole numbers of steps from 1 to "
            f"{last_name}, which is {last}."
        )


def no_samples(z0: State, sample_at: tuple[int, ...]) -> Samples:
    """Return room for the samples, or None if sample_at is empty."""
    n = len(sample_at)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), z0) if n else None


def take_sample(
    states: Samples, best: State, step: Int[Array, ""], sample_at: tuple[int, ...]
) -> Samples:
    """Return the samples, with `best` written in if `step` is in sample_at.

    Args:
      states: the samples so far.
      best: the best iterates after this step.
      step: number of steps taken.
      sample_at: rising numbers of steps.
    """
    if not sample_at:
        return None
    due = jnp.asarray(sample_at, step.dtype) == step

    def write() -> Samples:
        i = due.argmax()
        put = lambda rows, x: lax.dynamic_update_index_in_dim(rows, x, i, 0)  # noqa: E731
        return jax.tree.map(put, states, best)

    return lax.cond(due.any(), write, lambda: states)


def complete_samples(
    states: Samples, best: State, steps: Int[Array, ""], sample_at: tuple[int, ...]
) -> Samples:
    """Return the samples; those after the end of the solve are the final best iterates.

    Args:
      states: the samples so far.
      best: the best iterates at the end.
      steps: number of steps that the solve took.
      sample_at: rising numbers of steps.
    """
    if not sample_at:
        return None
    missed = jnp.asarray(sample_at, steps.dtype) > steps

    def fill(rows: Array, last: Array) -> Array:
        return jnp.where(missed.reshape(-1, *[1] * last.ndim), last, rows)

    return jax.tree.map(fill, states, best)
