"""Fixed-point solvers on pytrees: `solve`, and `Picard`, `Anderson`, `Broyden` to solve with."""

from mdeq_jax.solvers.anderson import Anderson
from mdeq_jax.solvers.broyden import Broyden
from mdeq_jax.solvers.initial import initial_state
from mdeq_jax.solvers.keys import sample_keys
from mdeq_jax.solvers.loop import Iteration, iterate
from mdeq_jax.solvers.picard import Picard
from mdeq_jax.solvers.solve import ForwardProblem, solve
from mdeq_jax.solvers.solver import Point, Solver, SolverResult, Status
from mdeq_jax.solvers.solver import State as State

__all__ = [
    "Anderson",
    "Broyden",
    "ForwardProblem",
    "Iteration",
    "Picard",
    "Point",
    "Solver",
    "SolverResult",
    "Status",
    "initial_state",
    "iterate",
    "sample_keys",
    "solve",
]
