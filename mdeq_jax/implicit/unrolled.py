"""Unrolling: the cell applied a fixed number of times, with ordinary backpropagation."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from mdeq_jax.checks import require, require_int
from mdeq_jax.implicit.adjoints import Adjoint
from mdeq_jax.solvers import ForwardProblem, SolverResult, State, Status
from mdeq_jax.solvers.norms import norm
from mdeq_jax.solvers.samples import check_samples
from mdeq_jax.solvers.stopping import relative_residual


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Unrolled(Adjoint):
    """z_K of z_{k+1} = f(z_k, args), differentiated as a network of K tied layers.

    It is the warm-up of deep equilibrium models and a baseline of its own. There is no solve:
    solver, tolerance and step limit are not used. The gradient with respect to z0 is the ordinary
    one. Memory grows with K.

    The `SolverResult` has K steps. Its trace holds ‖z_{k+1} − z_k‖ / ‖z_{k+1}‖ for k < K, the
    residual of the state *before* each application, which needs no further application. `residual`
    is the last entry (inf for K = 0), `converged` is False and `status` is `Status.STEP_LIMIT`.
    Sampled states are the ones after so many applications, with the ordinary gradient.

    Attributes:
      steps: K, at least 0.
      checkpoint: whether the backward pass recomputes each application from its state instead of
        storing intermediate values.

    Examples:
      Two applications of z = a z + 1 from 0 give a + 1:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> def z_2(a):
      ...     f = lambda z, a: a * z + 1
      ...     return mx.equilibrium(f, jnp.zeros((1, 1)), a, adjoint=mx.Unrolled(2))[0].sum()
      >>> float(z_2(0.5)), float(jax.grad(z_2)(0.5))
      (1.5, 1.0)
    """

    is_solve: ClassVar[bool] = False

    steps: int
    checkpoint: bool = False

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "steps", minimum=0)
        require(self, "checkpoint", isinstance(self.checkpoint, bool), "True or False")

    def find(self, problem: ForwardProblem) -> tuple[State, SolverResult]:
        """Return the state after all applications, and their statistics.

        Args:
          problem: its map, start, arguments and `sample_at` are used.

        Raises:
          ValueError: sample_at is not rising numbers in [1, K].
        """
        f = jax.checkpoint(problem.f) if self.checkpoint else problem.f
        result = unroll(f, problem.z0, problem.args, self.steps, problem.sample_at)
        return result.z, result


def unroll(
    f: Callable[[State, Any], State],
    z0: State,
    args: PyTree,
    steps: int,
    sample_at: tuple[int, ...] = (),
) -> SolverResult:
    """Return the state after `steps` applications of f, and the statistics that `Unrolled` has.

    Args:
      f: the map (z, args) -> z.
      z0: the first state, leaves (B, ...).
      args: any pytree of arrays.
      steps: number of applications, at least 0.
      sample_at: rising numbers of applications after which the state is sampled, in [1, steps].
    """
    check_samples(sample_at, steps, "the number of applications")
    z, trace, states = z0, [], []
    # A Python loop: `lax.scan` over convolutions is several times slower on CPUs.
    for k in range(steps):
        fz = f(z, args)
        g = jax.tree.map(jnp.subtract, fz, z)
        trace.append(relative_residual(*lax.stop_gradient((g, z))))
        z = fz
        if k + 1 in sample_at:
            states.append(z)
    unknown = jnp.full_like(norm(lax.stop_gradient(z)), jnp.inf)
    taken = jnp.full_like(unknown, steps, jnp.int32)
    return SolverResult(
        z=z,
        steps=taken,
        residual=trace[-1] if trace else unknown,
        converged=jnp.zeros_like(unknown, bool),
        trace=jnp.stack(trace) if trace else unknown[None][:0],
        best_step=taken,
        status=jnp.full_like(unknown, int(Status.STEP_LIMIT), jnp.int32),
        states=jax.tree.map(lambda *xs: jnp.stack(xs), *states) if states else None,
    )
