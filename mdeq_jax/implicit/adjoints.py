"""How the gradient of an equilibrium is obtained from its adjoint equation.

At z* = f(z*, a), a loss ℓ has dℓ/da = u ∂f/∂a, where u = u J + g with J = ∂f/∂z and g = ∂ℓ/∂z at z*
(Bai, Kolter, Koltun, "Deep Equilibrium Models", NeurIPS 2019, theorem 1). An `Adjoint` finds u, or
something cheaper in its place; `equilibrium` does the rest.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mdeq_jax.checks import require, require_int, require_share
from mdeq_jax.solvers import ForwardProblem, Solver, SolverResult, State
from mdeq_jax.solvers.norms import norm, scale, select
from mdeq_jax.solvers.solver import check_map, check_solver

Pullback = Callable[[State], State]
Equilibrium = Callable[..., tuple[State, SolverResult]]


class Cotangent(NamedTuple):
    """What an adjoint returns.

    Attributes:
      u: the cotangent that is pulled back through ∂f/∂a; structure, shapes and dtypes of g.
      steps: (B,) int32, steps of the adjoint solve; 0 for an adjoint that solves no equation.
      residual: (B,), the residual ‖uJ + g − u‖ / ‖g‖ of the adjoint solve; 0 for an adjoint that
        solves no equation. `Shine` reports the residual of the preconditioned equation that it
        refines.
      trace: (max_steps, B), the residual after each step of the adjoint solve; (0, B) for an
        adjoint that solves no equation.
    """

    u: State
    steps: Int[Array, " B"]
    residual: Float[Array, " B"]
    trace: Float[Array, "max_steps B"]


class Adjoint:
    """Where the gradient of an equilibrium comes from, and the protocol for an adjoint of your own.

    A subclass is a frozen dataclass, decorated with `jax.tree_util.register_static`. It implements
    one of two methods. With `solve` it inherits a forward pass that is not differentiated. With
    `find` it defines the whole way from the start to a state that JAX can differentiate, as
    `Phantom` and `Unrolled` do. For second derivatives `solve` must be differentiable by JAX.

    Attributes:
      is_solve: class attribute, whether the forward pass is a fixed-point solve; True by default.
        If it is False, as for `Unrolled`, sampled states carry a gradient of their own.

    Examples:
      The first two terms of the adjoint equation's series, g + g J:

      >>> import dataclasses, jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> @jax.tree_util.register_static
      ... @dataclasses.dataclass(frozen=True)
      ... class TwoTerms(mx.Adjoint):
      ...     def solve(self, pullback, g, equilibrium, memory):
      ...         u = jax.tree.map(jnp.add, g, pullback(g))
      ...         zeros = jnp.zeros(len(g))
      ...         return mx.Cotangent(u, zeros.astype(int), zeros, jnp.zeros((0, len(g))))
      >>> def z_star(a):
      ...     return mx.equilibrium(
      ...         lambda z, a: a * z + 1, jnp.zeros((1, 1)), a, adjoint=TwoTerms()
      ...     )[0].sum()
      >>> float(jax.grad(z_star)(0.5))  # the exact gradient is 4 = 2 (1 + 1/2 + 1/4 + ...)
      3.0
    """

    is_solve: ClassVar[bool] = True

    def find(self, problem: ForwardProblem) -> tuple[State, SolverResult] | None:
        """Return a state that JAX can differentiate, and the `SolverResult`.

        None, the default, asks for the solution of the problem, differentiated by `solve`.

        Args:
          problem: the forward solve.
        """
        return None

    def solve_forward(self, problem: ForwardProblem) -> tuple[SolverResult, Any] | None:
        """Return the result, and what `solve` needs to know of the forward solve.

        None, the default, asks for ``problem.solve()`` and hands `solve` no memory.

        Args:
          problem: the forward solve.
        """
        return None

    def solve(
        self, pullback: Pullback, g: State, equilibrium: Equilibrium, memory: Any
    ) -> Cotangent:
        """Return u for the equation u = pullback(u) + g.

        Args:
          pullback: the function u ↦ u J at the equilibrium, linearised once and outside any loop.
          g: cotangent of the equilibrium; structure, shapes and dtypes of the state.
          equilibrium: `mdeq_jax.equilibrium`, for adjoints that are a fixed point themselves.
          memory: what `solve_forward` returned with the result, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} implements neither solve nor find")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Exact(Adjoint):
    """The adjoint equation u = u J + g, by a second fixed-point solve.

    Each sample is solved for u/‖g‖, so that its residual is relative to ‖g‖ in both stop modes. An
    absolute test would pass at once on the small gradients of a mean loss. With
    `stop_scope="batch"` the equation is not scaled and the test of the original code is used.
    g = 0 gives u = 0 in 0 steps. A solve that does not converge gives its best iterate, never the
    start; from u = 0 the first iterate is g times the damping or mixing of the solver. Where no
    step is finite, u is g. The solve is an `equilibrium`, so gradients of any order exist.

    Attributes:
      solver: the solver of the adjoint equation, with its own max_steps and tol. It is used without
        its noise.
      start: where the solve starts: a function of g and of the arguments of f, (g, args) -> u, that
        returns a state like g and closes over no array. None starts at u = 0. It is compared by
        identity, so define the function once. The solution does not depend on it, and second
        derivatives solve their own adjoint equations from 0.

    Examples:
      The adjoint of z = a z + 1 is u = 1 / (1 − a), here 2. From there it takes 0 steps:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> def f(z, args):
      ...     return args["a"] * z + 1
      >>> def adjoint_steps(adjoint):
      ...     def z_star(probe):
      ...         args = {"a": 0.5, "guess": jnp.full((1, 1), 2.0)}
      ...         options = {"adjoint": adjoint, "adjoint_probe": probe}
      ...         z, _ = mx.equilibrium(f, jnp.zeros((1, 1)), args, **options)
      ...         return z.sum()
      ...     return int(jax.grad(z_star)(jnp.zeros((1, 2)))[0, 0])
      >>> near = mx.Exact(mx.Broyden(), start=lambda g, args: g * args["guess"])
      >>> adjoint_steps(mx.Exact(mx.Broyden())), adjoint_steps(near)
      (2, 0)
    """

    solver: Solver
    start: Callable[[State, Any], State] | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        check_solver(self.solver)
        allowed = "a function (g, args) -> u, or None"
        require(self, "start", self.start is None or callable(self.start), allowed)

    def solve_forward(self, problem: ForwardProblem) -> tuple[SolverResult, Any] | None:
        """Return the result of the solve and, for `start`, the arguments of f.

        Args:
          problem: the forward solve.
        """
        return None if self.start is None else (problem.solve(), problem.args)

    def solve(
        self, pullback: Pullback, g: State, equilibrium: Equilibrium, memory: Any = None
    ) -> Cotangent:
        """Return the solution of u = pullback(u) + g; `memory` is the arguments of f."""
        given, solver, size = g, self.solver.without_noise(), jnp.ones_like(norm(g))
        if solver.stop_scope == "sample":
            solver = dataclasses.replace(solver, stop_mode="abs")
            size = lax.stop_gradient(norm(g))
            size = jnp.where(size == 0, 1, size)
            g = scale(1 / size, g)

        def f(u: State, g: State) -> State:
            return jax.tree.map(jnp.add, pullback(u), g)

        u0 = jax.tree.map(jnp.zeros_like, g)
        if self.start is not None:
            u0 = self.start(given, memory)
            check_map(g, u0, "Exact.start")
            u0 = scale(jnp.where(norm(given) == 0, 0, 1 / size), u0)
        adjoint = dataclasses.replace(self, start=None)
        u, result = equilibrium(f, u0, g, solver=solver, adjoint=adjoint)
        u = select((result.best_step > 0) | result.converged, u, g)
        return Cotangent(scale(size, u), result.steps, result.residual, result.trace)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class JacobianFree(Adjoint):
    """The adjoint equation cut off at its first term: u = g.

    Source: Fung et al., "JFB: Jacobian-Free Backpropagation for Implicit Networks", AAAI 2022.
    """

    def solve(
        self, pullback: Pullback, g: State, equilibrium: Equilibrium, memory: Any = None
    ) -> Cotangent:
        """Return g itself."""
        return unsolved(g, g)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Neumann(Adjoint):
    """The adjoint equation's Neumann series, damped and cut off.

        u = λ g Σ_{i<k} Bⁱ,  B = λ J + (1 − λ) I

    At an exact equilibrium it equals the gradient of `Phantom(k, λ)`, with memory that does not
    grow with k. If the spectral radius of B is ρ < 1, it converges to `Exact` like ρᵏ.

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
        self, pullback: Pullback, g: State, equilibrium: Equilibrium, memory: Any = None
    ) -> Cotangent:
        """Return the sum of the first `steps` terms."""

        def add_term(u: State, _: None) -> tuple[State, None]:
            damp = lambda u, uj, g: u + self.damping * (uj + g - u)  # noqa: E731
            return jax.tree.map(damp, u, pullback(u), g), None

        first = jax.tree.map(lambda x: self.damping * x, g)
        u, _ = lax.scan(add_term, first, length=self.steps - 1)
        return unsolved(u, g)


def unsolved(u: State, g: State) -> Cotangent:
    """Return a `Cotangent` of u with the statistics of an adjoint that solves no equation.

    Args:
      u: the cotangent.
      g: the incoming cotangent, for the batch.
    """
    zeros = jnp.zeros_like(norm(g))
    return Cotangent(u, zeros.astype(jnp.int32), zeros, zeros[None][:0])


def check_adjoint(adjoint: Any) -> None:
    """Raise ValueError unless `adjoint` is an instance of `Adjoint`, not a name or a class."""
    if not isinstance(adjoint, Adjoint):
        raise ValueError(
            f"adjoint is {adjoint!r}; it must be an instance, such as JacobianFree() or "
            "Exact(Broyden(max_steps=30))."
        )
