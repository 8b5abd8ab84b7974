"""The solvers against the solvers of jaxopt and optimistix: one problem, one tolerance.

Every solver gets the cell of a model with random weights, image by image, and stops where ‖f(z) −
z‖ is at most the tolerance. The others run under `vmap`, because their norms are over all images.
Near zero the cell does not contract, because its GroupNorms return the same for z and for z / 10.
Near a large state it contracts, so that plain iteration finds the fixed point too.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import optimistix

from benchmarks.problems import setting
from benchmarks.timing import milliseconds, report, take_turns
from mdeq_jax.solvers import Anderson, Broyden, Picard, Solver, State, solve
from mdeq_jax.solvers.norms import norm
from mdeq_jax.vision.model.mdeq import CellArgs

_STEPS = 50
_FAR = 5.0


def main(config: str = "cifar10_tiny", batch: int = 8, rounds: int = 5, tol: float = 0.1) -> None:
    """Print the time of each solver, and its last residual.

    Args:
      config: name of a file in configs.
      batch: number of images.
      rounds: number of measurements of each solver.
      tol: tolerance on the norm of an image's residual.
    """
    bench = setting(config, batch)
    cell, z0, args = bench.problem()

    def f(z: State, args: CellArgs) -> State:
        key = jax.random.key(1)
        about = jax.tree.map(lambda x: x + _FAR * jax.random.normal(key, x.shape[1:]), z)
        return cell(about, args)

    options: dict[str, Any] = {"max_steps": _STEPS, "tol": tol, "stop_mode": "abs"}
    alone = {"maxiter": _STEPS, "tol": tol}
    fixed_point = functools.partial(_single, f)
    runs = {
        "Broyden": _ours(f, Broyden(**options)),
        "Anderson": _ours(f, Anderson(**options)),
        "Picard": _ours(f, Picard(**options)),
        "jaxopt Broyden": _each(
            lambda z, a: (
                jaxopt.Broyden(
                    lambda z, a: jax.tree.map(jnp.subtract, fixed_point(z, a), z), **alone
                )
                .run(z, a)
                .params
            )
        ),
        "jaxopt Anderson": _each(
            lambda z, a: (
                jaxopt.AndersonAcceleration(fixed_point, history_size=6, ridge=1e-4, **alone)
                .run(z, a)
                .params
            )
        ),
        "jaxopt fixed point": _each(
            lambda z, a: jaxopt.FixedPointIteration(fixed_point, **alone).run(z, a).params
        ),
        "optimistix fixed point": _each(
            lambda z, a: (
                optimistix.fixed_point(
                    fixed_point,
                    optimistix.FixedPointIteration(rtol=0.0, atol=tol, norm=optimistix.two_norm),
                    z,
                    a,
                    max_steps=_STEPS,
                    throw=False,
                ).value
            )
        ),
    }
    compiled = {name: functools.partial(jax.jit(run), z0, args) for name, run in runs.items()}
    residuals = {name: _residual(f, run(), args) for name, run in compiled.items()}
    seconds = take_turns(compiled, rounds)
    rows = [
        {"solver": name, "ms": milliseconds(seconds[name]), "worst_residual": residuals[name]}
        for name in runs
    ]
    report("peers", rows, config=config, batch=batch, tol=tol, max_steps=_STEPS)


def _ours(f: Callable[..., State], solver: Solver) -> Callable[[State, Any], State]:
    return lambda z0, args: solve(f, z0, args, solver).z


def _each(run: Callable[[State, Any], State]) -> Callable[[State, Any], State]:
    """Return a solver that runs on each image by itself, with shared parameters of the cell."""
    axes: Any = {"params": None, "x": 0, "masks": None}
    return jax.vmap(run, in_axes=(0, CellArgs(**axes)))


def _single(f: Callable[..., State], z: State, args: CellArgs) -> State:
    """Return the cell's value for a state without the batch axis."""
    batched = jax.tree.map(lambda x: x[None], z)
    fz = f(batched, args._replace(x=args.x[None]))
    return jax.tree.map(lambda x: x[0], fz)


def _residual(f: Callable[..., State], z: State, args: CellArgs) -> float:
    return float(norm(jax.tree.map(jnp.subtract, f(z, args), z)).max())
