"""Broyden's method with outer-problem awareness (OPA): it also learns where the loss will look.

The backward pass needs gᵀB⁻¹ for one g, the gradient of the outer loss, which the steps of the
forward solve do not depend on. Therefore B learns one more secant equation at every m-th step,

    vᵀB = vᵀ(J − I)  for  v = −gᵀB⁻¹,

from one product vᵀJ. If v is the true u = −gᵀ(J − I)⁻¹, then −gᵀB⁻¹ = u afterwards. Let h be the
residual of the adjoint equation at v, h = vᵀJ − v + g. By the formula of Sherman and Morrison

    −B⁻¹ ← (I + a hᵀ)(−B⁻¹),  a = −B⁻¹v / (‖v‖² − hᵀ(−B⁻¹)v)

Source: Ramzi et al., "SHINE", ICLR 2022, adjoint Broyden with OPA; the update of the direction is
Definition 3 of Schlenkrich, Griewank, Walther, "On the local convergence of adjoint Broyden
methods", 2010.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from mdeq_jax.solvers import ForwardProblem, Point, Solver, State
from mdeq_jax.solvers.inverse import InverseEstimate
from mdeq_jax.solvers.norms import in_working_dtype, inner, norm, reciprocal, scale
from mdeq_jax.solvers.rows import Rows


class Layout(NamedTuple):
    """What each row of the memory holds.

    Attributes:
      rows: number of rows.
      left: (n,), the row of l of each factor I + l rᵀ/‖r‖².
      right: (n,), the row of r of each factor.
      secant: (max_steps + 1,), the row of the step that the secant updates give without OPA.
      step: (max_steps + 1,), the row of the step that is taken; the same row where there is no OPA.
    """

    rows: int
    left: Int[Array, " n"]
    right: Int[Array, " n"]
    secant: Int[Array, " k"]
    step: Int[Array, " k"]


def layout(max_steps: int, every: int) -> Layout:
    """Return the layout of a solve of up to max_steps steps with OPA at every `every`-th step."""
    left, right, secant, step, rows = [], [], [0], [0], 1
    for k in range(1, max_steps + 1):
        secant.append(rows)
        left.append(rows)
        right.append(step[-1])
        if k % every == 0:
            left.append(rows + 1)
            right.append(rows + 2)
            rows += 3
        step.append(rows)
        rows += 1
    return Layout(rows, *(jnp.asarray(x, jnp.int32) for x in (left, right, secant, step)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OuterAwareBroyden(Solver):
    """Good Broyden's method with OPA. It keeps all its rows and never restarts.

    Attributes:
      every: m, at least 1.
      plan: the `layout` for max_steps and every.
      gradient: the function z ↦ g, the gradient of the outer loss, in the working dtype.
    """

    every: int
    plan: Layout
    gradient: Callable[[State], State]

    @classmethod
    def of(cls, problem: ForwardProblem, every: int) -> "OuterAwareBroyden":
        """Return the solver for a problem, with the options of the problem's own solver."""
        if problem.outer_gradient is None:
            raise ValueError(
                "Shine with opa_every needs the gradient of the outer loss; give equilibrium its "
                "outer_gradient=, a function of the state."
            )
        options = {f.name: getattr(problem.solver, f.name) for f in dataclasses.fields(Solver)}
        return cls(
            **options,
            every=every,
            plan=layout(problem.solver.max_steps, every),
            gradient=in_working_dtype(problem.outer_gradient, None, like=problem.z0),
        )

    def init(self, point: Point) -> Rows:
        """Return empty rows."""
        return Rows.empty(self.plan.rows, point.g)

    def propose(self, memory: Rows, point: Point) -> tuple[State, Rows]:
        """Return the iterate after a full quasi-Newton step, and the rows with what was learned."""
        z, g, k, *_ = point
        plan = self.plan
        last = memory.read(plan.step[k - 1])
        before = self._estimate(memory, jnp.maximum(self._factors(k - 1), 0), like=g)
        step = before.apply(g)
        c = jnp.where(k > 0, inner(last, step) * reciprocal(inner(last, last)), 0)
        step = scale(reciprocal(1 - c), step)
        memory = memory.write(plan.secant[k], step)
        due = (k > 0) & (k % self.every == 0)
        memory, step = lax.cond(
            due, lambda: self._learn(memory, point, step), lambda: (memory, step)
        )
        memory = memory.write(plan.step[k], step)
        return jax.tree.map(jnp.add, z, step), memory

    def inverse(self, memory: Rows, steps: Int[Array, " B"]) -> InverseEstimate:
        """Return −B⁻¹ of each sample after its number of steps."""
        return InverseEstimate(memory, self.plan.left, self.plan.right, self._factors(steps))

    def _factors(self, k: Int[Array, "..."]) -> Int[Array, "..."]:
        """Return the number of factors of B_k, k + k // every."""
        return k + k // self.every

    def _learn(self, memory: Rows, point: Point, step: State) -> tuple[Rows, State]:
        """Return the memory with one more factor, and the step that follows from it."""
        plan = self.plan
        new = self._factors(point.k) - 1
        estimate = self._estimate(memory, new, like=step)
        g = self.gradient(point.z)
        g = scale(reciprocal(norm(g)), g)  # squares of squares, below, would leave float32
        v = estimate.apply_transposed(g)
        h = jax.tree.map(lambda vj, v, g: vj - v + g, point.pullback(v), v, g)
        image = estimate.apply(v)
        curvature = inner(v, v) - inner(h, image)
        # The factor I + a hᵀ is stored in the form of the others, with l = ‖h‖² a and r = h.
        a = scale(reciprocal(curvature), image)
        memory = memory.write(plan.left[new], scale(inner(h, h), a))
        memory = memory.write(plan.right[new], h)
        return memory, jax.tree.map(jnp.add, step, scale(inner(h, step), a))

    def _estimate(self, memory: Rows, count: Int[Array, ""], like: State) -> InverseEstimate:
        batch = jax.tree.leaves(like)[0].shape[0]
        return InverseEstimate(memory, self.plan.left, self.plan.right, jnp.full(batch, count))
