"""L-BFGS on a gradient alone; its curvature pairs are an estimate of the inverse Hessian."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

# A step is accepted if the absolute slope along it has shrunk to this fraction.
_SLOPE_FRACTION = 0.5
_MAX_TRIALS = 40

VectorField = Callable[[Float[Array, "N"]], Float[Array, "N"]]


class Pairs(NamedTuple):
    """Secant pairs, H s = y. The newest is the last row; a row of zeros is empty.

    Attributes:
      s: differences of z.
      y: differences of the gradient.
    """

    s: Float[Array, "M N"]
    y: Float[Array, "M N"]


class OPA(NamedTuple):
    """Outer-problem awareness: secant pairs in addition to the pairs of the steps.

    Attributes:
      direction: function z -> v of the direction in which the inverse estimate should be good.
      every: number of steps from one extra pair to the next, ≥ 1.
    """

    direction: VectorField
    every: int = 5


class Minimum(NamedTuple):
    """The result of `minimize`.

    Attributes:
      z: the last iterate.
      gradient_norm: ‖g(z)‖.
      converged: whether ‖g(z)‖ is at most the tolerance.
      steps: number of steps taken.
      evaluations: number of gradient evaluations, including line searches and OPA.
      pairs: the secant pairs, for `inverse_product`.
    """

    z: Float[Array, "N"]
    gradient_norm: Float[Array, ""]
    converged: Bool[Array, ""]
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    pairs: Pairs


class _State(NamedTuple):
    z: Float[Array, "N"]
    gradient: Float[Array, "N"]
    pairs: Pairs
    step_norm: Float[Array, ""]
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]


class _Search(NamedTuple):
    """A trial of the line search, and the previous bracket (low, high) of the minimum."""

    length: Float[Array, ""]
    gradient: Float[Array, "N"]
    slope: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    trials: Int[Array, ""]


def no_pairs(memory: int, z: Float[Array, "N"]) -> Pairs:
    """Return room for `memory` pairs; without any pair, the estimate is the identity.

    Raises:
      ValueError: memory < 1.
    """
    if memory < 1:
        raise ValueError(f"memory is {memory}; it must be at least 1 pair.")
    free = jnp.zeros((memory, *z.shape), z.dtype)
    return Pairs(free, free)


def push(pairs: Pairs, s: Float[Array, "N"], y: Float[Array, "N"]) -> Pairs:
    """Store a pair in place of the oldest, unless sᵀy ≤ 0: the estimate stays positive definite."""
    kept = s @ y > 0
    return Pairs(
        jnp.where(kept, jnp.roll(pairs.s, -1, axis=0).at[-1].set(s), pairs.s),
        jnp.where(kept, jnp.roll(pairs.y, -1, axis=0).at[-1].set(y), pairs.y),
    )


def inverse_product(pairs: Pairs, v: Float[Array, "N"]) -> Float[Array, "N"]:
    """Multiply v by the inverse estimate B, in two passes over the pairs.

    B = I, then B ← (I − s yᵀ/sᵀy) B (I − y sᵀ/sᵀy) + s sᵀ/sᵀy for each pair, oldest first.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4.
    """
    curvature = jnp.sum(pairs.s * pairs.y, axis=1)
    rho = jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), 0)

    def newest_first(q, row):
        s, y, rho = row
        alpha = rho * (s @ q)
        return q - alpha * y, alpha

    def oldest_first(r, row):
        s, y, rho, alpha = row
        return r + (alpha - rho * (y @ r)) * s, None

    q, alpha = lax.scan(newest_first, v, (*pairs, rho), reverse=True)
    return lax.scan(oldest_first, q, (*pairs, rho, alpha))[0]


def opa_pair(
    gradient: VectorField,
    z: Float[Array, "N"],
    at_z: Float[Array, "N"],
    pairs: Pairs,
    v: Float[Array, "N"],
    norm: Float[Array, ""],
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """Return the secant pair that improves the inverse estimate B in a direction.

    e = t B v with t such that ‖e‖ = norm;  y = g(z + e) − g(z)

    Args:
      gradient: g, z -> (N,).
      z: point at which the pair is taken.
      at_z: g(z).
      pairs: the pairs of B.
      v: the direction.
      norm: norm of the last step, which goes to zero as the solve converges.

    Source: Ramzi et al., SHINE (ICLR 2022, arXiv 2106.00553), section 2; norm as in their code.
    """
    e = inverse_product(pairs, v)
    e = e * (norm / jnp.linalg.norm(e))
    return e, gradient(z + e) - at_z


def minimize(
    gradient: VectorField,
    z: Float[Array, "N"],
    pairs: Pairs,
    *,
    tol: float | Float[Array, ""] = 1e-6,
    max_steps: int = 1000,
    opa: OPA | None = None,
) -> Minimum:
    """Minimise a convex function by L-BFGS: z ← z − t B g(z).

    The step length t is accepted where |g(z − t B g)ᵀ B g| ≤ |gᵀ B g| / 2. The values of the
    function are not used, because near the minimum they lose their digits before the gradient does.

    Args:
      gradient: g, z -> (N,), of a smooth convex function.
      z: the first iterate.
      pairs: `no_pairs(memory, z)`, or the pairs of an earlier solve.
      tol: stops where ‖g(z)‖ ≤ tol. Below about 1e-5 times the gradient's scale use float64.
      max_steps: most steps, ≥ 1.
      opa: the extra pairs to store; None stores none.

    Raises:
      ValueError: max_steps or opa.every is below 1.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; it must be at least 1.")
    if opa is not None and opa.every < 1:
        raise ValueError(f"opa.every is {opa.every}; it must be at least 1 step; 5 is usual.")

    def unfinished(state: _State):
        return (jnp.linalg.norm(state.gradient) > tol) & (state.steps < max_steps)

    none = jnp.zeros((), int)
    start = _State(z, gradient(z), pairs, jnp.zeros((), z.dtype), none, none + 1)
    end = lax.while_loop(unfinished, functools.partial(_step, gradient, opa), start)
    norm = jnp.linalg.norm(end.gradient)
    return Minimum(end.z, norm, norm <= tol, end.steps, end.evaluations, end.pairs)


def _opa(gradient: VectorField, opa: OPA, state: _State) -> _State:
    def add(state: _State) -> _State:
        v = opa.direction(state.z)
        pair = opa_pair(gradient, state.z, state.gradient, state.pairs, v, state.step_norm)
        return state._replace(pairs=push(state.pairs, *pair), evaluations=state.evaluations + 1)

    due = (state.steps > 0) & (state.steps % opa.every == 0)
    return lax.cond(due, add, lambda state: state, state)


def _step(gradient: VectorField, opa: OPA | None, state: _State) -> _State:
    if opa is not None:
        state = _opa(gradient, opa, state)
    direction = -inverse_product(state.pairs, state.gradient)
    found = _line_search(gradient, state, direction)
    s = found.length * direction
    return _State(
        z=state.z + s,
        gradient=found.gradient,
        pairs=push(state.pairs, s, found.gradient - state.gradient),
        step_norm=jnp.linalg.norm(s),
        steps=state.steps + 1,
        evaluations=state.evaluations + found.trials,
    )


def _line_search(gradient: VectorField, state: _State, direction: Float[Array, "N"]) -> _Search:
    """Bracket the minimum by the sign of the slope: double the length, then halve the bracket."""
    target = _SLOPE_FRACTION * jnp.abs(state.gradient @ direction)

    def attempt(length, low, high, trials) -> _Search:
        g = gradient(state.z + length * direction)
        return _Search(length, g, g @ direction, low, high, trials + 1)

    def rejected(last: _Search):
        return (jnp.abs(last.slope) > target) & (last.trials < _MAX_TRIALS)

    def retry(last: _Search) -> _Search:
        low = jnp.where(last.slope < 0, last.length, last.low)
        high = jnp.where(last.slope < 0, last.high, last.length)
        length = jnp.where(jnp.isinf(high), 2 * low, (low + high) / 2)
        return attempt(length, low, high, last.trials)

    one = jnp.ones_like(target)
    return lax.while_loop(rejected, retry, attempt(one, 0 * one, jnp.inf * one, jnp.zeros((), int)))
