"""How the gradient of an equilibrium is obtained from its adjoint equation.

At z* = f(z*, a), a loss ℓ has dℓ/da = u ∂f/∂a with u = u J + g, J = ∂f/∂z at z*, g = ∂ℓ/∂z* (Bai,
Kolter, Koltun, "Deep Equilibrium Models", NeurIPS 2019, theorem 1). An `Adjoint` finds u, or
something cheaper in its place; `equilibrium` does the rest. `Shine`, which learns from the forward
solve, has a file of its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from mdeq_jax.checks import require_int, require_share
from mdeq_jax.solvers import Iteration, Solver, SolverResult, State, iterate
from mdeq_jax.solvers.captures import ClosedMap
from mdeq_jax.solvers.norms import norm, scale, select
from mdeq_jax.solvers.solve import solve_closed
from mdeq_jax.solvers.solver import check_solver


class ForwardProblem(NamedTuple):
    """A forward solve, as an adjoint is asked to do it.

    Attributes:
      f: the map of a state and of all that it depends on.
      z0: where the solve starts, leaves (B, ...).
      args: what f depends on, beside the state.
      solver: of the forward solve.
      tol: replaces solver.tol; may be traced.
      step_limit: bounds the solve below solver.max_steps; may be traced.
      sample_at: rising numbers of steps after which a state is sampled.
      outer_gradient: the gradient of the loss, of a state and of all that it depends on; or None.
      outer_args: what outer_gradient depends on, beside the state.
    """

    f: ClosedMap
    z0: State
    args: PyTree
    solver: Solver
    tol: Float[Array, ""] | float | None = None
    step_limit: Int[Array, ""] | int | None = None
    sample_at: tuple[int, ...] = ()
    outer_gradient: ClosedMap | None = None
    outer_args: PyTree = None

    def solve(self) -> SolverResult:
        """Solve it by its own solver."""
        return solve_closed(
            self.f, self.z0, self.args, self.solver, self.tol, self.step_limit, self.sample_at
        )

    def iterate(self, solver: Solver) -> Iteration:
        """Solve it by another solver, and return also where that stood when it ended."""
        return iterate(
            self.f,
            self.z0,
            self.args,
            solver,
            tol=self.tol,
            step_limit=self.step_limit,
            sample_at=self.sample_at,
        )


class Cotangent(NamedTuple):
    """What an adjoint returns.

    Attributes:
      u: the cotangent that is pulled back through ∂f/∂a, like g.
      steps: (B,) steps of the adjoint solve, 0 where nothing is solved.
      residual: (B,) its residual ‖uJ + g − u‖ / ‖g‖, 0 where nothing is solved; of `Shine`, that of
        the preconditioned equation which it refines.
      trace: (max_steps, B), the residual after each step; no rows where nothing is solved.
    """

    u: State
    steps: Int[Array, " B"]
    residual: Float[Array, " B"]
    trace: Float[Array, "max_steps B"]


class Adjoint:
    """Where the gradient of an equilibrium comes from, and the protocol of one of your own.

    A subclass is a frozen dataclass, decorated with `jax.tree_util.register_static`. It implements
    `solve`, and inherits a forward pass that is not differentiated; or it implements `find`, the
    whole way from the start to a state that JAX can differentiate, as `Phantom` and `Unrolled` do.
    What `solve` does has to be differentiable by JAX if second derivatives are wanted.

    Examples:
      The first two terms of the adjoint equation's series, g + g J:

      >>> import dataclasses, jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> @jax.tree_util.register_static
      ... @dataclasses.dataclass(frozen=True)
      ... class TwoTerms(mx.Adjoint):
      ...     def solve(self, pullback, g, equilibrium, kept):
      ...         u = jax.tree.map(jnp.add, g, pullback(g))
      ...         nothing = jnp.zeros(len(g))
      ...         return mx.Cotangent(u, nothing.astype(int), nothing, nothing[None][:0])
      >>> def z_star(a):
      ...     return mx.equilibrium(
      ...         lambda z, a: a * z + 1, jnp.zeros((1, 1)), a, adjoint=TwoTerms()
      ...     )[0].sum()
      >>> float(jax.grad(z_star)(0.5))  # of 4 = 2 (1 + 1/2 + 1/4 + ...)
      3.0
    """

    def find(
        self,
        problem: ForwardProblem,
        implicit: Callable[[ForwardProblem, "Adjoint"], tuple[State, SolverResult]],
    ) -> tuple[State, SolverResult]:
        """Return the state that is the equilibrium, differentiable, and the `SolverResult`.

        Unless a subclass has another way, that is the state of `solve_forward`, whose cotangent is
        what `solve` makes of the incoming one.

        Args:
          problem: the forward solve.
          implicit: the implicit function of a problem and an adjoint.
        """
        return implicit(problem, self)

    def solve_forward(self, problem: ForwardProblem) -> tuple[SolverResult, Any]:
        """Return the result and whatever `solve` needs from the forward solve; None by default."""
        return problem.solve(), None

    def solve(
        self,
        pullback: Callable[[State], State],
        g: State,
        equilibrium: Callable[..., tuple[State, SolverResult]],
        kept: Any,
    ) -> Cotangent:
        """Return u for the equation u = pullback(u) + g.

        Args:
          pullback: u ↦ u J at the equilibrium; its linearisation is made once, outside any loop.
          g: cotangent of the equilibrium, of the state's structure, shapes and dtypes.
          equilibrium: `mdeq_jax.equilibrium`, for adjoints that are a fixed point themselves.
          kept: what `solve_forward` returned beside the result.
        """
        raise NotImplementedError(f"{type(self).__name__} implements neither solve nor find")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Exact(Adjoint):
    """The adjoint equation u = u J + g by a second fixed-point solve, from u = 0.

    Each sample is solved for u/‖g‖, so that its residual is relative to ‖g‖ whatever the solver's
    `stop_mode`: an absolute test would pass at once on the small gradients of a mean loss. With
    `stop_scope="batch"`, for parity with the originals, nothing is scaled and their test is used.
    g = 0 gives u = 0 in 0 steps. A solve that does not converge gives the best of its iterates,
    never the start; the first of them is g times the damping or mixing of the solver. Where no step
    is finite, u is g. The solve is an `equilibrium`, so gradients of any order exist.

    Attributes:
      solver: the solver of the adjoint equation, with its own max_steps and tol.
    """

    solver: Solver

    def __post_init__(self):
        """Check the solver; raises ValueError."""
        check_solver(self.solver)

    def solve(
        self,
        pullback: Callable[[State], State],
        g: State,
        equilibrium: Callable[..., tuple[State, SolverResult]],
        kept: Any = None,
    ) -> Cotangent:
        """Return the solution of u = pullback(u) + g."""
        solver, size = self.solver, jnp.ones_like(norm(g))
        if solver.stop_scope == "sample":
            solver = dataclasses.replace(solver, stop_mode="abs")
            size = lax.stop_gradient(norm(g))
            size = jnp.where(size == 0, 1, size)
            g = scale(1 / size, g)

        def f(u: State, g: State) -> State:
            return jax.tree.map(jnp.add, pullback(u), g)

        zero = jax.tree.map(jnp.zeros_like, g)
        u, result = equilibrium(f, zero, g, solver=solver, adjoint=self)
        u = select((result.best_step > 0) | result.converged, u, g)
        return Cotangent(scale(size, u), result.steps, result.residual, result.trace)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class JacobianFree(Adjoint):
    """The adjoint equation cut off at its first term: u = g.

    Source: Fung et al., "JFB: Jacobian-Free Backpropagation for Implicit Networks", AAAI 2022.
    """

    def solve(
        self,
        pullback: Callable[[State], State],
        g: State,
        equilibrium: Callable[..., tuple[State, SolverResult]],
        kept: Any = None,
    ) -> Cotangent:
        """Return g itself."""
        return unsolved(g, g)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Neumann(Adjoint):
    """The adjoint equation's Neumann series, damped and cut off.

        u = λ g Σ_{i<k} Bⁱ,  B = λ J + (1 − λ) I

    At an exact equilibrium it is what `Phantom(k, λ)` has, at memory that does not grow with k.
    Where the spectral radius of B is below 1, it tends to `Exact` at that rate.

    Source: Geng et al., "On Training Implicit Models", NeurIPS 2021, Neumann-series-based phantom
    gradient.

    Attributes:
      steps: k, at least 1.
      damping: λ in (0, 1].
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "steps", minimum=1)
        require_share(self, "damping")

    def solve(
        self,
        pullback: Callable[[State], State],
        g: State,
        equilibrium: Callable[..., tuple[State, SolverResult]],
        kept: Any = None,
    ) -> Cotangent:
        """Return the sum of the first `steps` terms."""

        def add_term(u: State, _: None) -> tuple[State, None]:
            damp = lambda u, uj, g: u + self.damping * (uj + g - u)  # noqa: E731
            return jax.tree.map(damp, u, pullback(u), g), None

        first = jax.tree.map(lambda x: self.damping * x, g)
        u, _ = lax.scan(add_term, first, length=self.steps - 1)
        return unsolved(u, g)


def unsolved(u: State, g: State) -> Cotangent:
    """Return a `Cotangent` of u without statistics of a solver, for the incoming g."""
    nothing = jnp.zeros_like(norm(g))
    return Cotangent(u, nothing.astype(jnp.int32), nothing, nothing[None][:0])
