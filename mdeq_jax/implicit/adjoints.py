"""How the gradient of an equilibrium is obtained from its adjoint equation.

At z* = f(z*, a), a loss ℓ has dℓ/da = u ∂f/∂a with u = u J + g, J = ∂f/∂z at z*, g = ∂ℓ/∂z* (Bai,
Kolter, Koltun, "Deep Equilibrium Models", NeurIPS 2019, theorem 1). An `Adjoint` finds u, or
something cheaper in its place; `equilibrium` does the rest.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mdeq_jax.solvers import Solver, SolverResult, State
from mdeq_jax.solvers.common import norm, scale


class Cotangent(NamedTuple):
    """What an adjoint returns.

    Attributes:
      u: the cotangent that is pulled back through ∂f/∂a, like g.
      steps: (B,) steps of the adjoint solve, 0 where nothing is solved.
      residual: (B,) its residual ‖uJ + g − u‖ / ‖g‖, 0 where nothing is solved.
      trace: (max_steps, B), the residual after each step; no rows where nothing is solved.
    """

    u: State
    steps: Int[Array, " B"]
    residual: Float[Array, " B"]
    trace: Float[Array, "max_steps B"]


class Adjoint(abc.ABC):
    """The protocol of an adjoint of your own.

    A subclass is a frozen dataclass, decorated with `jax.tree_util.register_static`. What `solve`
    does has to be differentiable by JAX if second derivatives are wanted.
    """

    @abc.abstractmethod
    def solve(
        self,
        pullback: Callable[[State], State],
        g: State,
        equilibrium: Callable[..., tuple[State, SolverResult]],
    ) -> Cotangent:
        """Return u for the equation u = pullback(u) + g.

        Args:
          pullback: u ↦ u J at the equilibrium; its linearisation is made once, outside any loop.
          g: cotangent of the equilibrium, of the state's structure, shapes and dtypes.
          equilibrium: `mdeq_jax.equilibrium`, for adjoints that are a fixed point themselves.
        """


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Exact(Adjoint):
    """The adjoint equation u = u J + g by a second fixed-point solve, from u = 0.

    Each sample is solved for u/‖g‖, so that its residual is relative to ‖g‖ whatever the solver's
    `stop_mode`: an absolute test would pass at once on the small gradients of a mean loss. With
    `stop_scope="batch"`, for parity with the originals, nothing is scaled and their test is used.
    g = 0 gives u = 0 in 0 steps. The solve is an `equilibrium`, so gradients of any order exist.

    Attributes:
      solver: the solver of the adjoint equation, with its own max_steps and tol.
    """

    solver: Solver

    def solve(
        self,
        pullback: Callable[[State], State],
        g: State,
        equilibrium: Callable[..., tuple[State, SolverResult]],
    ) -> Cotangent:
        """Return the solution of u = pullback(u) + g."""
        solver, size = self.solver, jnp.ones(())
        if solver.stop_scope == "sample":
            solver = dataclasses.replace(solver, stop_mode="abs")
            size = lax.stop_gradient(norm(g))
            size = jnp.where(size == 0, 1, size)
            g = scale(1 / size, g)

        def f(u: State, g: State) -> State:
            return jax.tree.map(jnp.add, pullback(u), g)

        zero = jax.tree.map(jnp.zeros_like, g)
        u, result = equilibrium(f, zero, g, solver=solver, adjoint=self)
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
    ) -> Cotangent:
        """Return g itself."""
        nothing = jnp.zeros_like(norm(g))
        return Cotangent(g, nothing.astype(jnp.int32), nothing, nothing[None][:0])
