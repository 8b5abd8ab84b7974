"""The least time that a training step's evaluations of the cell need, and the time it takes.

A convolution or a matrix product needs its multiply-adds at the speed of a large matrix product, or
its operands and its result at the speed of a copy, whichever is slower. All other work counts as
free. A product with the cell's Jacobian consists of convolutions of the same sizes.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from benchmarks.problems import setting
from benchmarks.timing import milliseconds, report, take_turns
from benchmarks.training import repeatable, training_step

_SIZE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}  # sides of the large matrices
_NEGATED = {"cpu": 2**28, "gpu": 2**31, "tpu": 2**31}  # bytes of the large array
_REPEATED = 4  # evaluations per measurement


def main(config: str = "cifar10_large", batch: int = 16, rounds: int = 5) -> None:
    """Print floor, time and their ratio of one evaluation of the cell and of the training step.

    Args:
      config: name of a file in configs.
      batch: number of images.
      rounds: number of measurements of each time.

    Raises:
      ValueError: the config's adjoint is not "exact"; only its evaluations are counted.
    """
    bench = setting(config, batch)
    solver, adjoint = bench.config.solver, bench.config.adjoint.name
    if adjoint != "exact":
        raise ValueError(
            f"{config} has the adjoint {adjoint!r}; evaluations are counted of 'exact'."
        )
    f, z0, args = bench.problem()
    # The forward solve; the cell at its result; the adjoint solve; the gradient of the parameters,
    # which is two products for each convolution.
    evaluations = solver.forward.max_steps + 1 + 1 + solver.backward.max_steps + 1 + 2
    dtype = jnp.dtype(bench.config.compute_dtype or jnp.float32)
    ceilings = _ceilings(dtype)

    @jax.jit
    def evaluated(args: Any) -> Any:
        return lax.fori_loop(0, _REPEATED, lambda _, z: f(z, args), z0)

    functions: dict[str, Callable[[], Any]] = {
        **{name: function for name, (function, _) in ceilings.items()},
        "evaluation": functools.partial(evaluated, args),
        "step": repeatable(*training_step(bench, None)),
    }
    ms = {name: milliseconds(times) for name, times in take_turns(functions, rounds).items()}
    per_ms = [amount / ms[name] for name, (_, amount) in ceilings.items()]
    costs = list(_costs(jax.make_jaxpr(f)(z0, args).jaxpr))
    floor = sum(max(x / most for x, most in zip(cost, per_ms, strict=True)) for cost in costs)
    measured = {
        "evaluation": (floor, ms["evaluation"] / _REPEATED),
        "step": (evaluations * floor, ms["step"]),
    }
    rows = [
        {"what": what, "floor_ms": least, "ms": took, "over": took / least}
        for what, (least, took) in measured.items()
    ]
    report(
        "floor",
        rows,
        config=config,
        batch=batch,
        dtype=dtype.name,
        evaluations=evaluations,
        operations=sum(operations for operations, _ in costs),
        bytes=sum(moved for _, moved in costs),
        operations_per_s=1e3 * per_ms[0],
        bytes_per_s=1e3 * per_ms[1],
    )


def _ceilings(dtype: Any) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return a matrix product with its operations, and a memory pass with its bytes."""
    platform = jax.default_backend()
    size, count = _SIZE[platform], _NEGATED[platform] // dtype.itemsize
    matrix, array = jnp.ones((size, size), dtype), jnp.ones(count, dtype)
    # In place, because the system has to clear new memory first.
    negate = jax.jit(jnp.negative, donate_argnums=0)
    arrays = [array]

    def negated() -> jax.Array:
        arrays[0] = negate(arrays[0])
        return arrays[0]

    return {
        "matrix product": (functools.partial(jax.jit(jnp.matmul), matrix, matrix), 2 * size**3),
        "negation": (negated, 2 * array.nbytes),
    }


def _costs(jaxpr: core.Jaxpr) -> Iterator[tuple[float, float]]:
    """Yield operations, without padding zeros, and least bytes of each convolution and product."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            alone = jax.jit(functools.partial(equation.primitive.bind, **equation.params))
            avals: list[Any] = [v.aval for v in equation.invars]
            shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in avals]
            analysis: Any = alone.lower(*shapes).cost_analysis()
            yield analysis["flops"], analysis["bytes accessed"]
        for inner in core.jaxprs_in_params(equation.params):
            yield from _costs(inner)
