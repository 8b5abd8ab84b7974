"""Differentiation through a fixed point: `equilibrium`, and the adjoints it takes."""

from mdeq_jax.implicit.adjoints import (
    Adjoint,
    Cotangent,
    Exact,
    JacobianFree,
    Neumann,
)
from mdeq_jax.implicit.augmented import Augmented, Residuals, Steps, augmented_map
from mdeq_jax.implicit.deq import DEQ, Solution, equilibrium
from mdeq_jax.implicit.optimise import Optimum, optimise
from mdeq_jax.implicit.phantom import Phantom
from mdeq_jax.implicit.problem import FixedPointProblem
from mdeq_jax.implicit.shine import Shine
from mdeq_jax.implicit.unrolled import Unrolled
from mdeq_jax.solvers import ForwardProblem

__all__ = [
    "DEQ",
    "Adjoint",
    "Augmented",
    "Cotangent",
    "Exact",
    "FixedPointProblem",
    "ForwardProblem",
    "JacobianFree",
    "Neumann",
    "Optimum",
    "Phantom",
    "Residuals",
    "Shine",
    "Solution",
    "Steps",
    "Unrolled",
    "augmented_map",
    "equilibrium",
    "optimise",
]
