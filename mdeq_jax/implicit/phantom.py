"""Phantom gradients: differentiate a few damped steps from the equilibrium, not the solve."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import PyTree

from mdeq_jax.checks import require_int, require_share
from mdeq_jax.implicit.adjoints import Adjoint
from mdeq_jax.solvers import ForwardProblem, SolverResult, State


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Phantom(Adjoint):
    """Ordinary backpropagation through `steps` damped steps z ← (1 − τ) z + τ f(z) from a fixed z*.

    Source: Geng et al., "On Training Implicit Models", NeurIPS 2021, unrolling-based phantom
    gradient (equations 7 and 8). Common choices are 5 steps and a damping of 0.5 to 0.7.

    Attributes:
      steps: k, at least 1; memory grows with it.
      damping: τ in (0, 1].

    Examples:
      At an exact equilibrium the gradient is the series of `Neumann`:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> def z_star(a, adjoint):
      ...     z, _ = mx.equilibrium(lambda z, a: a * z + 1, jnp.zeros((1, 1)), a, adjoint=adjoint)
      ...     return z.sum()
      >>> [round(float(jax.grad(z_star)(0.5, mx.Phantom(k))), 3) for k in (1, 5)]
      [1.0, 3.051]
      >>> round(float(jax.grad(z_star)(0.5, mx.Neumann(5))), 3)
      3.051
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "steps", minimum=1)
        require_share(self, "damping")

    def find(self, problem: ForwardProblem) -> tuple[State, SolverResult]:
        """Return the state after the damped steps from the solved state, and the solve's result.

        Args:
          problem: the forward solve.
        """
        result = lax.stop_gradient(problem).solve()
        return self.unroll(problem.f, result.z, problem.args), result

    def unroll(self, f: Callable[[State, Any], State], z: State, args: PyTree) -> State:
        """Return the state after the damped steps from z, differentiable in z and args.

        Args:
          f: the map (z, args) -> z.
          z: a state, leaves (B, ...).
          args: any pytree of arrays.
        """
        damp = lambda z, fz: (1 - self.damping) * z + self.damping * fz  # noqa: E731
        for _ in range(self.steps):
            z = jax.tree.map(damp, z, f(z, args))
        return z
