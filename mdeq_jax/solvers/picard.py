"""Picard iteration: apply f again and again, damped."""

import dataclasses

import jax

from mdeq_jax.checks import require_share
from mdeq_jax.solvers.solver import Point, Solver, State


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Picard(Solver):
    """Damped fixed-point iteration z ← z + damping · (f(z) − z).

    It converges where the spectral radius of (1 − damping) I + damping J is below 1. It has no
    memory: only the trace grows with `max_steps`.

    Attributes:
      damping: in (0, 1]; 1 is plain iteration.
    """

    damping: float = 1.0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        require_share(self, "damping")

    def init(self, point: Point) -> tuple[()]:
        """Return an empty memory."""
        return ()

    def propose(self, memory: tuple[()], point: Point) -> tuple[State, tuple[()]]:
        """Return the damped application of f."""
        return jax.tree.map(lambda z, g: z + self.damping * g, point.z, point.g), memory
