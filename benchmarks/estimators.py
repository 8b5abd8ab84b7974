"""The cost of a gradient by each estimator, for the cell's equilibrium without stem and head.

The shapes are those of `cifar10_tiny`; the forward solve takes 18 steps and the exact adjoint 20.
"""

import functools
from typing import Any

import jax

from benchmarks.problems import setting
from benchmarks.timing import milliseconds, ratio, report, take_turns
from mdeq_jax.implicit import Adjoint, Exact, JacobianFree, Neumann, Phantom, Shine, equilibrium


def main(config: str = "cifar10_tiny", batch: int = 32, rounds: int = 9) -> None:
    """Print forward and backward times, and the speed-up of each over the exact adjoint.

    Args:
      config: name of a file in configs.
      batch: number of images.
      rounds: number of measurements of each estimator.
    """
    bench = setting(config, batch)
    forward, backward = bench.config.solver.forward.build(), bench.config.solver.backward.build()
    f, z0, args = bench.problem()
    keys = jax.random.split(jax.random.key(1), len(z0))
    g = tuple(jax.random.normal(k, z.shape) for k, z in zip(keys, z0, strict=True))
    adjoints = {
        "exact": Exact(backward),
        "neumann(5)": Neumann(5, 0.5),
        "phantom(5)": Phantom(5, 0.5),
        "shine": Shine(),
        "shine, refine 5": Shine(refine=5),
        "shine, opa 5": Shine(opa_every=5),
        "jacobian_free": JacobianFree(),
    }

    @functools.partial(jax.jit, static_argnums=0)
    def solve(adjoint: Adjoint | Phantom, args: Any) -> Any:
        def solved(args: Any) -> Any:
            options = {"solver": forward, "adjoint": adjoint, "outer_gradient": lambda z: g}
            return equilibrium(f, z0, args, **options)[0]

        return jax.vjp(solved, args)

    pull_back = jax.jit(lambda pullback, g: pullback(g))
    pullbacks = {name: solve(adjoint, args)[1] for name, adjoint in adjoints.items()}
    ahead = take_turns(
        {name: functools.partial(solve, adjoint, args) for name, adjoint in adjoints.items()},
        rounds,
    )
    back = take_turns(
        {name: functools.partial(pull_back, p, g) for name, p in pullbacks.items()}, rounds
    )
    rows = [
        {
            "estimator": name,
            "forward_ms": milliseconds(ahead[name]),
            "backward_ms": milliseconds(back[name]),
            "backward_speedup": ratio(back, "exact", name),
        }
        for name in adjoints
    ]
    steps = {"forward_steps": forward.max_steps, "backward_steps": backward.max_steps}
    report("estimators", rows, config=config, batch=batch, **steps)
