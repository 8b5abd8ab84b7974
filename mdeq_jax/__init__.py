"""Multiscale deep equilibrium models in JAX: fixed-point solvers, implicit gradients, MDEQ.

Names are imported when first used, so that ``import mdeq_jax`` is quick and the equilibrium layer
needs no more than jax, jaxtyping and numpy.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from mdeq_jax.checks import needs_extra

if TYPE_CHECKING:
    from mdeq_jax.implicit import DEQ as DEQ
    from mdeq_jax.implicit import Adjoint as Adjoint
    from mdeq_jax.implicit import Cotangent as Cotangent
    from mdeq_jax.implicit import Exact as Exact
    from mdeq_jax.implicit import ForwardProblem as ForwardProblem
    from mdeq_jax.implicit import JacobianFree as JacobianFree
    from mdeq_jax.implicit import Neumann as Neumann
    from mdeq_jax.implicit import Optimum as Optimum
    from mdeq_jax.implicit import Phantom as Phantom
    from mdeq_jax.implicit import Shine as Shine
    from mdeq_jax.implicit import Solution as Solution
    from mdeq_jax.implicit import Steps as Steps
    from mdeq_jax.implicit import Unrolled as Unrolled
    from mdeq_jax.implicit import equilibrium as equilibrium
    from mdeq_jax.implicit import optimise as optimise
    from mdeq_jax.solvers import Anderson as Anderson
    from mdeq_jax.solvers import Broyden as Broyden
    from mdeq_jax.solvers import Picard as Picard
    from mdeq_jax.solvers import Point as Point
    from mdeq_jax.solvers import Solver as Solver
    from mdeq_jax.solvers import SolverResult as SolverResult
    from mdeq_jax.solvers import Status as Status
    from mdeq_jax.solvers import initial_state as initial_state
    from mdeq_jax.solvers import solve as solve
    from mdeq_jax.stability import alignment as alignment
    from mdeq_jax.stability import gradient_error as gradient_error
    from mdeq_jax.stability import jacobian_loss as jacobian_loss
    from mdeq_jax.stability import rolled as rolled
    from mdeq_jax.stability import spectral_radius as spectral_radius
    from mdeq_jax.vision.load import load as load
    from mdeq_jax.vision.model import ModelConfig as ModelConfig
    from mdeq_jax.vision.model import create_model as create_model
    from mdeq_jax.vision.torch_files.convert import import_torch as import_torch

__version__ = "0.1.0"

_HOME = {
    "Anderson": "solvers",
    "Broyden": "solvers",
    "Picard": "solvers",
    "Point": "solvers",
    "Solver": "solvers",
    "SolverResult": "solvers",
    "Status": "solvers",
    "initial_state": "solvers",
    "solve": "solvers",
    "Adjoint": "implicit",
    "DEQ": "implicit",
    "Cotangent": "implicit",
    "Exact": "implicit",
    "ForwardProblem": "implicit",
    "JacobianFree": "implicit",
    "Neumann": "implicit",
    "Optimum": "implicit",
    "Phantom": "implicit",
    "Shine": "implicit",
    "Solution": "implicit",
    "Steps": "implicit",
    "Unrolled": "implicit",
    "equilibrium": "implicit",
    "optimise": "implicit",
    "alignment": "stability",
    "gradient_error": "stability",
    "jacobian_loss": "stability",
    "rolled": "stability",
    "spectral_radius": "stability",
    "ModelConfig": "vision.model",
    "create_model": "vision.model",
    "import_torch": "vision.torch_files.convert",
    "load": "vision.load",
}
__all__ = list(_HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        # Python suggests the nearest name from `name` and `obj`.
        message = f"module 'mdeq_jax' has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])
    with needs_extra("vision"):  # all other packages need only a plain install
        return getattr(importlib.import_module(f"mdeq_jax.{_HOME[name]}"), name)
