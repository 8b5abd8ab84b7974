"""SHINE: the backward pass reuses the inverse Jacobian that the forward solve has estimated.

Source: Ramzi, Mannel, Bai, Starck, Ciuciu, Moreau, "SHINE: SHaring the INverse Estimate from the
forward pass for bi-level optimization and implicit models", ICLR 2022.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from mdeq_jax.checks import require_int, require_number
from mdeq_jax.implicit.adjoints import Adjoint, Cotangent, Equilibrium, Exact, Pullback, unsolved
from mdeq_jax.implicit.opa import OuterAwareBroyden
from mdeq_jax.solvers import Broyden, ForwardProblem, SolverResult, State
from mdeq_jax.solvers.inverse import InverseEstimate, inverse_from_steps
from mdeq_jax.solvers.norms import norm, reciprocal, scale, select
from mdeq_jax.solvers.solver import Memory


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Shine(Adjoint):
    """u = −g B⁻¹, where B is the forward solve's estimate of J − I at the iterate that it returned.

    It is exact where a sample's state is one number and the solve has converged. Otherwise it is as
    good as B, which good Broyden need not bring to J − I even on a linear problem. The forward
    solver must be a `Broyden` with ``memory=None``.

    Attributes:
      refine: number of further Broyden steps on the adjoint equation, at least 0. They start from u
        and from the forward solve's B. Broyden's method is invariant under linear maps of the
        residual, so they are steps on u ← u − (u J + g − u) B⁻¹, an equation whose residual
        estimates the error of u.
      fallback: a number above 0. A sample with ‖u‖ above this many times ‖g‖ takes u = g and B = −I
        instead. None has no fallback.
      opa_every: m, at least 1. One more secant update, in the direction of the outer loss, follows
        every m-th forward step (OPA); it needs `outer_gradient`. None has no such updates.
    """

    refine: int = 0
    fallback: float | None = 1.8
    opa_every: int | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "refine", minimum=0)
        if self.fallback is not None:
            require_number(self, "fallback", lambda x: x > 0, "above 0, or None")
        if self.opa_every is not None:
            require_int(self, "opa_every", minimum=1)

    def solve_forward(self, problem: ForwardProblem) -> tuple[SolverResult, InverseEstimate]:
        """Return the result of the solve, and −B⁻¹ at the iterate that it returns."""
        solver = problem.solver
        if not isinstance(solver, Broyden) or solver.memory is not None:
            raise ValueError(
                f"Shine reuses the history of the forward solve and was given {solver}; give it a "
                "Broyden with memory=None, or choose another adjoint."
            )
        if self.opa_every is not None:
            solver = OuterAwareBroyden.of(problem, self.opa_every)
            inverse = solver.inverse
        else:
            # One row more, for the secant pair of the last step.
            solver = dataclasses.replace(solver, memory=solver.max_steps + 1)
            inverse = inverse_from_steps
        end = problem.iterate(solver)
        # The memory after one more step includes the secant pair of the last step. A sample that
        # stopped earlier has it already, because its z and g did not change since.
        memory: Memory = solver.propose(end.memory, end.point(problem.f, problem.args))[1]
        return end.result, inverse(memory, end.result.best_step)

    def solve(
        self, pullback: Pullback, g: State, equilibrium: Equilibrium, memory: InverseEstimate
    ) -> Cotangent:
        """Return −g B⁻¹, refined; `memory` is −B⁻¹."""
        u, inverse = memory.apply_transposed(g), memory
        if self.fallback is not None:
            far = ~(norm(u) <= self.fallback * norm(g))
            inverse = inverse._replace(count=jnp.where(far, 0, inverse.count))
            u = select(far, g, u)
        if not self.refine:
            return unsolved(u, g)
        return self._refined(pullback, g, u, equilibrium, inverse)

    def _refined(
        self,
        pullback: Pullback,
        g: State,
        u: State,
        equilibrium: Equilibrium,
        inverse: InverseEstimate,
    ) -> Cotangent:
        """Return u after the further steps, which are taken for u/‖g‖ as in `Exact`."""
        size = lax.stop_gradient(norm(g))
        down = reciprocal(size)
        solver = Broyden(max_steps=self.refine, tol=0.0, stop_mode="abs")

        def f(u: State, g: State) -> State:
            gap = jax.tree.map(lambda uj, g, u: uj + g - u, pullback(u), g, u)
            return jax.tree.map(jnp.add, u, inverse.apply_transposed(gap))

        u, result = equilibrium(
            f, scale(down, u), scale(down, g), solver=solver, adjoint=Exact(solver)
        )
        return Cotangent(scale(1 / down, u), result.steps, result.residual, result.trace)
