"""The cost of Broyden's method beside the evaluations of the cell that it needs.

A solve of N steps is timed against N + 1 evaluations in a bare loop, and its adjoint of M steps
against M + 1 products with the Jacobian.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.problems import setting
from benchmarks.timing import milliseconds, ratio, report, take_turns
from mdeq_jax.implicit import Exact, equilibrium
from mdeq_jax.solvers import State, solve


def main(config: str = "cifar10_large", batch: int = 8, rounds: int = 5) -> None:
    """Print the times and their ratios.

    Args:
      config: name of a file in configs, with the solvers.
      batch: number of images.
      rounds: number of measurements of each time.
    """
    bench = setting(config, batch)
    forward, backward = bench.config.solver.forward.build(), bench.config.solver.backward.build()
    f, z0, args = bench.problem()
    keys = jax.random.split(jax.random.key(1), len(z0))
    g = tuple(jax.random.normal(k, z.shape) for k, z in zip(keys, z0, strict=True))

    @jax.jit
    def solved(args: Any) -> State:
        return solve(f, z0, args, forward).z

    @jax.jit
    def evaluated(args: Any) -> State:
        return lax.fori_loop(0, forward.max_steps + 1, lambda _, z: f(z, args), z0)

    z = solved(args)

    # Both functions linearise the cell once, outside their loops.
    @jax.jit
    def adjoint_solved(args: Any) -> State:
        _, pullback = jax.vjp(lambda z: f(z, args), z)
        return Exact(backward).solve(lambda u: pullback(u)[0], g, equilibrium).u

    @jax.jit
    def pulled_back(args: Any) -> State:
        _, pullback = jax.vjp(lambda z: f(z, args), z)
        step = lambda _, u: jax.tree.map(jnp.add, pullback(u)[0], g)  # noqa: E731
        return lax.fori_loop(0, backward.max_steps + 1, step, g)

    functions = {
        "solve": solved,
        "bare evaluations": evaluated,
        "adjoint solve": adjoint_solved,
        "bare products": pulled_back,
    }
    seconds = take_turns(
        {name: functools.partial(function, args) for name, function in functions.items()}, rounds
    )
    rows = [{"what": name, "ms": milliseconds(times)} for name, times in seconds.items()]
    report(
        "solver_overhead",
        rows,
        config=config,
        batch=batch,
        forward_steps=forward.max_steps,
        backward_steps=backward.max_steps,
        overhead_ratio=ratio(seconds, "solve", "bare evaluations"),
        adjoint_overhead_ratio=ratio(seconds, "adjoint solve", "bare products"),
    )
