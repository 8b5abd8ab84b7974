"""The equilibrium layer as one value, which a model is handed and hands on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from mdeq_jax.implicit.adjoints import Adjoint
from mdeq_jax.implicit.equilibrium import equilibrium
from mdeq_jax.implicit.phantom import Phantom
from mdeq_jax.solvers import Broyden, Solver, SolverResult, State


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """What a `DEQ` returns: the equilibrium, and all that a loss on it may need.

    Attributes:
      z: the equilibrium, differentiable in args and in what f closes over.
      result: the `SolverResult` of the forward solve.
      sampled: the states after `DEQ.sample_at` steps, each like z, with a phantom gradient.
      args: the arguments of f.
      f: the map, for `jacobian_loss` and `spectral_radius`.
    """

    z: State
    result: SolverResult
    sampled: tuple[State, ...]
    args: PyTree
    f: Callable[[State, Any], State] = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class DEQ:
    """How an equilibrium is found and differentiated: a deep equilibrium layer without its cell.

    Attributes:
      solver: of the forward solve.
      adjoint: where the gradient comes from; None is ``Exact(solver)``.
      sample_at: rising numbers of steps in [1, solver.max_steps] after which a state is sampled on
        the way, for losses on several states (fixed-point correction).
      phantom: where the gradient of the sampled states comes from.

    Examples:
      The fixed point of z = a z + 1 is 1 / (1 − a), here 2, and its derivative 4:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> deq = mx.DEQ(mx.Broyden(tol=1e-5))
      >>> def z_star(a):
      ...     return deq(lambda z, a: a * z + 1, jnp.zeros((1, 1)), a).z.sum()
      >>> float(z_star(0.5)), float(jax.grad(z_star)(0.5))
      (2.0, 4.0)
    """

    solver: Solver = Broyden()
    adjoint: Adjoint | None = None
    sample_at: tuple[int, ...] = ()
    phantom: Phantom = Phantom()

    def __call__(
        self,
        f: Callable[[State, Any], State],
        z0: State,
        args: PyTree,
        *,
        tol: Float[Array, ""] | float | None = None,
        step_limit: Int[Array, ""] | int | None = None,
        adjoint_probe: Float[Array, "B 2"] | None = None,
        outer_gradient: Callable[[State], State] | None = None,
    ) -> Solution:
        """Return the solution of z = f(z, args), each sample of the batch by itself.

        Args:
          f: the map (z, args) -> z, pure, each sample of the batch by itself.
          z0: where the solve starts, a pytree of floating-point arrays (B, ...).
          args: any pytree of arrays.
          tol: replaces solver.tol; may be traced.
          step_limit: bounds the solve below solver.max_steps; may be traced.
          adjoint_probe: zeros (B, 2), whose cotangent is the adjoint solve's (steps, residual).
          outer_gradient: z ↦ ∂ℓ/∂z of the loss, for ``Shine(opa_every=...)``.

        Raises:
          ValueError: as `equilibrium`.
        """
        z, result = equilibrium(
            f,
            z0,
            args,
            solver=self.solver,
            adjoint=self.adjoint,
            tol=tol,
            step_limit=step_limit,
            adjoint_probe=adjoint_probe,
            sample_at=self.sample_at,
            outer_gradient=outer_gradient,
        )
        count = 0 if result.states is None else len(self.sample_at)
        states = [jax.tree.map(lambda x, i=i: x[i], result.states) for i in range(count)]
        sampled = [self.phantom.unroll(f, lax.stop_gradient(state), args) for state in states]
        return Solution(z, result, tuple(sampled), args, f)
