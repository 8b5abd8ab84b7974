"""A few steps of Broyden's method with room for many steps, as one batch and under `vmap`.

64 samples of 10 entries, z = tanh(A z + b), 20 steps taken. The cost of a step should not depend on
the room for further steps. Mapping 64 batches of one sample should cost as much as one batch of 64.
"""

import jax
import jax.numpy as jnp
import numpy as np

import mdeq_jax as mx
from benchmarks.timing import milliseconds, report, take_turns

SAMPLES, ENTRIES, STEPS = 64, 10, 20


def main(rounds: int = 15) -> None:
    """Print milliseconds and temporary memory for several sizes of the history."""
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.normal(size=(SAMPLES, ENTRIES, ENTRIES)) / 4, jnp.float32)
    offset = jnp.asarray(rng.normal(size=(SAMPLES, ENTRIES)), jnp.float32)
    rows = []
    for max_steps in (30, 100, 300, 1000):
        solver = mx.Broyden(max_steps=max_steps, tol=0.0)

        def batch(matrix: jax.Array, offset: jax.Array, solver: mx.Solver = solver) -> jax.Array:
            def f(z: jax.Array, offset: jax.Array) -> jax.Array:
                return jnp.tanh(jnp.einsum("bij,bj->bi", matrix, z) + offset)

            return mx.solve(f, jnp.zeros_like(offset), offset, solver, step_limit=STEPS).z

        one_batch = jax.jit(batch).lower(matrix, offset).compile()
        mapped = jax.jit(jax.vmap(batch))
        seconds = take_turns(
            {
                "one batch": lambda run=one_batch: run(matrix, offset),
                "vmap": lambda run=mapped: run(matrix[:, None], offset[:, None]),
            },
            rounds,
        )
        memory = one_batch.memory_analysis()
        rows.append(
            {
                "max_steps": max_steps,
                "ms": milliseconds(seconds["one batch"]),
                "ms under vmap": milliseconds(seconds["vmap"]),
                "MiB": memory.temp_size_in_bytes / 2**20 if memory else None,
            }
        )
    report("long_history", rows, steps=STEPS)
