"""Differentiation through a fixed point: `equilibrium`, and the adjoints it takes."""

from mdeq_jax.implicit.adjoints import Adjoint, Cotangent, Exact, JacobianFree
from mdeq_jax.implicit.equilibrium import equilibrium
from mdeq_jax.implicit.phantom import Phantom

__all__ = ["Adjoint", "Cotangent", "Exact", "JacobianFree", "Phantom", "equilibrium"]
