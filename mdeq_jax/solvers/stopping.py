"""The stop rule: the residual of an iterate, and which test ends a sample.

Each sample is measured by itself, without any absolute constant: the same problem in other units
leads to the same decisions. With ``stop_scope="batch"`` the rule is that of the original code,
`lib/solvers.py`, locuslab/deq, for parity.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mdeq_jax.solvers.norms import in_unit, inner, norm, quotient, unit_of
from mdeq_jax.solvers.solver import Solver, State, Status

# A residual has exploded at this many times the scale of its problem.
_EXPLOSION = 1e6
# The original code compares with the first residual; the factor depends on the stop mode.
_ORIGINAL_EXPLOSION = {"rel": 1e3, "abs": 1e6}
# After more steps than _STALL_STEPS, a residual below _STALL_REACH · tol has stalled if it changed
# by less than a factor of _STALL_RATIO during the last _STALL_STEPS steps.
_STALL_STEPS, _STALL_RATIO, _STALL_REACH = 30, 1.3, 3.0
# The cap of a relative residual, and its value at f(z) = 0.
_LARGEST_RELATIVE = 1e9


class Measure(NamedTuple):
    """What the stop rule needs to know of an iterate.

    Attributes:
      residual: (B,), the residual in the solver's mode and scope.
      size: (B,), what is tested for growth: ‖g‖ in the rule's unit, or the residual itself with
        ``stop_scope="batch"``.
    """

    residual: Float[Array, " B"]
    size: Float[Array, " B"]


class StopRule(NamedTuple):
    """The stop rule of one solve.

    Attributes:
      solver: the solver; its stop_mode, stop_scope and max_steps are used.
      unit: (B,), a power of two near the largest entry of z0 and f(z0). Norms are taken in this
        unit, so that squares neither overflow nor underflow.
      largest: (B,), the size above which a residual has exploded.
      tol: the tolerance in force, a scalar or (B,).
    """

    solver: Solver
    unit: Float[Array, " B"]
    largest: Float[Array, " B"]
    tol: Float[Array, "..."]

    @classmethod
    def begin(
        cls, solver: Solver, z: State, g: State, tol: Float[Array, "..."] | float | None
    ) -> tuple["StopRule", Measure]:
        """Return the rule of a solve that starts at z, and the measure of z.

        The scale of the problem is the largest of ‖f(z0)‖, ‖z0‖ and ‖g0‖. The first residual is no
        scale, because at a warm start it is small and says nothing about how far iterates may go.

        Args:
          solver: the solver.
          z: the start, in the working dtype.
          g: its residual f(z) − z.
          tol: replaces solver.tol; None leaves it.
        """
        fz = jax.tree.map(jnp.add, z, g)
        unit = unit_of(z, fz)
        if solver.stop_scope == "batch":
            unit = jnp.ones_like(unit)
        tol = jnp.asarray(solver.tol if tol is None else tol, unit.dtype)
        rule = cls(solver, unit, largest=unit, tol=tol)  # the true `largest` needs the sizes
        first = rule.measure(g, z)
        if solver.stop_scope == "batch":
            largest = _ORIGINAL_EXPLOSION[solver.stop_mode] * first.size
        else:
            largest = _EXPLOSION * jnp.stack([rule._size(x) for x in (fz, z, g)]).max(axis=0)
        return rule._replace(largest=largest), first

    def measure(self, g: State, z: State) -> Measure:
        """Return the measure of an iterate z with the residual g = f(z) − z."""
        batch, size = self.solver.stop_scope == "batch", self._size(g)
        if self.solver.stop_mode == "abs":
            residual = size * self.unit
        else:
            of_fz = self._size(jax.tree.map(jnp.add, z, g))
            residual = size / (of_fz + 1e-9) if batch else _ratio(size, of_fz)
        return Measure(residual, residual if batch else size)

    def _size(self, tree: State) -> Float[Array, " B"]:
        """Return each sample's norm in its unit; in scope "batch" the batch's norm, repeated."""
        scaled = in_unit(tree, self.unit)
        squared = inner(scaled, scaled)
        if self.solver.stop_scope == "batch":
            squared = jnp.full_like(squared, squared.sum())
        return jnp.sqrt(squared)

    def status(self, now: Measure, stalled: Bool[Array, " B"] | bool = False) -> Int[Array, " B"]:
        """Return the `Status` of each sample; STEP_LIMIT means that no test ends it here.

        Args:
          now: the measure of the current iterate.
          stalled: whether the residual has stalled, as `has_stalled` says.
        """
        status = jnp.full_like(now.size, Status.STEP_LIMIT, jnp.int32)
        status = jnp.where(stalled, Status.STALLED, status)
        status = jnp.where(now.size > self.largest, Status.DIVERGED, status)
        status = jnp.where(jnp.isfinite(now.size), status, Status.NOT_FINITE)
        status = jnp.where(now.residual <= self.tol, Status.CONVERGED, status)
        return status.astype(jnp.int32)  # not weakly typed

    def has_stalled(
        self,
        now: Measure,
        trace: Float[Array, "max_steps B"],
        k: Int[Array, ""],
        best_step: Int[Array, " B"],
    ) -> Bool[Array, " B"] | bool:
        """Return whether the residual is within reach of the tolerance and no longer falls.

        Args:
          now: the measure after step k+1.
          trace: residuals up to and including entry k.
          k: number of steps taken before this one.
          best_step: (B,), the step of the lowest residual so far.
        """
        if self.solver.max_steps <= _STALL_STEPS:
            return False
        start = jnp.maximum(k + 1 - _STALL_STEPS, 0)
        window = lax.dynamic_slice_in_dim(trace, start, _STALL_STEPS)
        stalled = window.max(axis=0) < _STALL_RATIO * window.min(axis=0)
        stalled &= (k + 1 > _STALL_STEPS) & (now.residual < _STALL_REACH * self.tol)
        if self.solver.stop_scope == "sample":  # a residual that still falls is slow, not stalled
            stalled &= best_step <= start + 1
        return stalled


def relative_residual(g: State, z: State) -> Float[Array, " B"]:
    """Return ‖g‖ / ‖f(z)‖ of each sample, g = f(z) − z; 0 where g is 0, and at most 1e9."""
    return _ratio(norm(g), norm(jax.tree.map(jnp.add, z, g)))


def _ratio(size: Float[Array, " B"], fz: Float[Array, " B"]) -> Float[Array, " B"]:
    return quotient(size, jnp.maximum(fz, size / _LARGEST_RELATIVE))
