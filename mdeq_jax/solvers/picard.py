"""Picard iteration: apply f again and again, damped and with noise if asked to."""

import dataclasses

import jax

from mdeq_jax.checks import require_number, require_share
from mdeq_jax.solvers.keys import normal_like
from mdeq_jax.solvers.solver import Point, Solver, State


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Picard(Solver):
    """Damped fixed-point iteration z ← z + damping · (f(z) − z) + noise · ε, ε ~ N(0, I).

    Without noise it converges where the spectral radius of (1 − damping) I + damping J is below 1.
    It has no memory: only the trace grows with `max_steps`.

    Attributes:
      damping: in (0, 1]; 1 is plain iteration.
      noise: standard deviation of the noise in each entry, at least 0. Above 0 the solve needs a
        ``key=``. 0 draws nothing.
    """

    damping: float = 1.0
    noise: float = 0.0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        require_share(self, "damping")
        require_number(self, "noise", lambda x: x >= 0, "of at least 0")

    def propose(self, memory: tuple[()], point: Point) -> tuple[State, tuple[()]]:
        """Return the damped application of f, with noise; ValueError if the noise has no key."""
        z = jax.tree.map(lambda z, g: z + self.damping * g, point.z, point.g)
        if self.noise == 0:
            return z, memory
        if point.keys is None:
            raise ValueError(
                f"Picard(noise={self.noise}) draws random numbers and has no key; pass key=, such "
                "as key=jax.random.key(0)."
            )
        draw = normal_like(point.keys, z)
        return jax.tree.map(lambda z, e: z + self.noise * e, z, draw), memory

    def without_noise(self) -> "Picard":
        """Return the same iteration with noise 0."""
        return dataclasses.replace(self, noise=0.0)
