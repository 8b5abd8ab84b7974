"""Differentiation through a fixed point: `equilibrium`, and the adjoints it takes."""

from mdeq_jax.implicit.adjoints import (
    Adjoint,
    Cotangent,
    Exact,
    ForwardProblem,
    JacobianFree,
    Neumann,
)
from mdeq_jax.implicit.equilibrium import equilibrium
from mdeq_jax.implicit.phantom import Phantom
from mdeq_jax.implicit.shine import Shine

__all__ = [
    "Adjoint",
    "Cotangent",
    "Exact",
    "ForwardProblem",
    "JacobianFree",
    "Neumann",
    "Phantom",
    "Shine",
    "equilibrium",
]
