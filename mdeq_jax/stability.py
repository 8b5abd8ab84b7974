"""How stable an equilibrium is, how good its gradient, and whether it depends on the start.

The size of the Jacobian J = ∂f/∂z at z and its spectral radius need only products vᵀJ, one backward
pass through f each. The estimate of the gradient's error needs the statistics of both solves. The
alignment score compares solves from several starts.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from mdeq_jax.solvers import Solver, SolverResult, State, solve
from mdeq_jax.solvers.initial import normal_samples
from mdeq_jax.solvers.keys import fold_in_each, sample_keys
from mdeq_jax.solvers.norms import (
    in_unit,
    inner,
    norm,
    reciprocal,
    scale,
    select,
    unit_of,
    vary_together,
)


def jacobian_loss(
    f: Callable[[State, Any], State],
    z: State,
    args: PyTree,
    key: PRNGKeyArray | None = None,
    probes: int = 2,
    *,
    vectors: State | None = None,
    first: Int[Array, ""] | int = 0,
) -> Float[Array, ""]:
    """Return the mean of ‖vᵀJ‖² / n over probes v ~ N(0, I), where z has n entries, batch included.

    Its expectation is ‖J‖²_F / n. It is differentiable in args; z is held fixed.

    Args:
      f: the map (z, args) -> z.
      z: the state at which J is taken, usually an equilibrium.
      args: the arguments of f.
      key: from which the probes are drawn.
      probes: number of probes drawn, at least 1.
      vectors: one probe v of the structure and shapes of z, in place of key and probes.
      first: number of the first sample in the whole batch; may be traced. The probe of a sample
        depends only on the key and the sample's number. Under `shard_map` give each device its own
        `first`; otherwise all devices draw the same probes.

    Raises:
      ValueError: neither or both of key and vectors are given, or probes is below 1.

    Examples:
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> z = jnp.ones((4, 3))
      >>> float(mx.jacobian_loss(lambda z, slope: slope * z, z, 0.5, vectors=jnp.ones((4, 3))))
      0.25

    Source: Bai, Koltun, Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization",
    ICML 2021, equation 7, and `lib/jacobian.py`, locuslab/deq.
    """
    if (key is None) == (vectors is None):
        raise ValueError("jacobian_loss takes either a key or vectors; give one of the two.")
    if probes < 1:
        raise ValueError(f"probes is {probes}; it must be at least 1.")
    z, pullback = _pullback(f, lax.stop_gradient(z), args)
    drawn = (
        [vectors]
        if key is None
        else [normal_samples(k, z, first) for k in jax.random.split(key, probes)]
    )
    squares = jnp.stack([_squared_norm(pullback(v)) for v in vary_together(drawn, like=z)])
    return squares.mean() / sum(x.size for x in jax.tree.leaves(z))


def spectral_radius(
    f: Callable[[State, Any], State],
    z: State,
    args: PyTree,
    key: PRNGKeyArray,
    iterations: int = 100,
) -> Float[Array, " B"]:
    """Return max |λ(J)| of each sample, by the growth of ‖vᵀJᵏ‖ with k.

    The Rayleigh quotient would be wrong where the dominant eigenvalues are a complex pair, because
    v turns forever there.

    Args:
      f: the map (z, args) -> z, each sample of the batch by itself.
      z: the state at which J is taken, usually an equilibrium.
      args: the arguments of f.
      key: from which the first v is drawn.
      iterations: products with J, at least 1.

    Raises:
      ValueError: iterations is below 1.

    Examples:
      A rotation by 60°, shrunk to 0.9, has the eigenvalues 0.9 exp(±iπ/3):

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> c, s = 0.5, 3**0.5 / 2
      >>> f = lambda z, w: z @ w
      >>> w = 0.9 * jnp.array([[c, -s], [s, c]])
      >>> (radius,) = mx.spectral_radius(f, jnp.zeros((1, 2)), w, jax.random.key(0))
      >>> round(float(radius), 3)
      0.9
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; it must be at least 1.")
    z, pullback = _pullback(f, z, args)

    def grow(v: State, _: None) -> tuple[State, Float[Array, " B"]]:
        v = scale(1 / norm(v), v)
        vj = pullback(v)
        growth = norm(vj)
        return select(growth > 0, vj, v), growth

    _, growths = lax.scan(grow, vary_together(normal_samples(key, z), like=z), length=iterations)
    # While a complex pair turns v, the growth per step swings about its mean. The first steps still
    # show smaller eigenvalues. Weights that vanish at both ends suppress both.
    middles = (jnp.arange(iterations, dtype=growths.dtype) + 0.5) / iterations
    weights = jnp.sin(jnp.pi * middles) ** 2
    return jnp.exp(jnp.average(jnp.log(growths), axis=0, weights=weights))


def alignment(
    f: Callable[[State, Any], State],
    z: State,
    args: PyTree,
    starts: PyTree[Float[Array, "S B ..."]],
    solver: Solver,
    *,
    tol: Float[Array, ""] | float | None = None,
    step_limit: Int[Array, ""] | int | None = None,
    key: Key[Array, "..."] | None = None,
) -> Float[Array, " B"]:
    """Return the asymptotic alignment score of each sample, which is low if the start matters.

        mean_s cos(z, solve(f, starts_s, args).z)

    It is 1 for a path-independent map, such as a contraction. It certifies nothing by itself: a
    network whose state does not depend on its input has the score 1 too. Report it together with
    the accuracy.

    Args:
      f: the map (z, args) -> z, each sample of the batch by itself.
      z: what the solver returned from the default start.
      args: the arguments of f.
      starts: S states to start from, stacked on a new first axis: leaves (S, B, ...). `rolled`
        returns the states of other samples. Draws of `initial_state` give the alignment under
        noise.
      solver: the solver that found z, with the same number of steps.
      tol: replaces solver.tol, as in the solve that found z; may be traced.
      step_limit: bounds the solves below solver.max_steps, as in the solve that found z; may be
        traced.
      key: for a solver that draws random numbers, as in `solve`; each start draws its own. Give
        another key than the solve that found z had.

    Returns:
      Scores in [−1, 1], by `cosine`.

    Raises:
      ValueError: at trace time, as `solve` does.

    Examples:
      Of the four pairs of z ← tanh(2z) started at 1 and −1, those of equal sign agree:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> f, solver = lambda z, _: jnp.tanh(2 * z), mx.Picard(max_steps=50)
      >>> z = mx.solve(f, jnp.array([[1.0], [-1.0]]), None, solver).z
      >>> mx.alignment(f, z, None, mx.rolled(z), solver).tolist()
      [0.0, 0.0]

    Source: Anil et al., "Path Independent Equilibrium Models Can Better Exploit Test-Time
    Computation", NeurIPS 2022.
    """

    keys = sample_keys(key, z)

    def score(numbered: tuple[Int[Array, ""], State]) -> Float[Array, " B"]:
        number, start = numbered
        options = {"tol": tol, "step_limit": step_limit, "key": fold_in_each(keys, number)}
        return cosine(z, solve(f, start, args, solver, **options).z)

    count = jax.tree.leaves(starts)[0].shape[0]
    return lax.map(score, (jnp.arange(count), vary_together(starts, like=f(z, args)))).mean(0)


def rolled(
    z: State, shifts: Sequence[int] | None = None, group: int | None = None
) -> PyTree[Float[Array, "S B ..."]]:
    """Return the states of a batch, rolled: what each sample starts from in `alignment`.

    Under `shard_map` it rolls within the device's part of the batch, so the result depends on the
    number of devices, unless `group` divides each part.

    Args:
      z: the states, leaves (B, ...).
      shifts: sample b of the s-th state is sample b − shifts[s] of z, counted cyclically. None is
        0, …, group − 1: all pairs, each sample with itself included.
      group: number of neighbouring samples among which states are rolled; it divides B. None is B.

    Returns:
      Leaves (S, B, ...), one state for each of the S shifts.

    Raises:
      ValueError: B is not a multiple of `group`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> mx.rolled(jnp.array([1.0, 2.0, 3.0]), shifts=(0, 1)).tolist()
      [[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]
      >>> mx.rolled(jnp.array([1.0, 2.0, 3.0, 4.0]), shifts=(1,), group=2).tolist()
      [[2.0, 1.0, 4.0, 3.0]]
    """
    size = jax.tree.leaves(z)[0].shape[0]
    among = group or max(size, 1)
    if size % among:
        raise ValueError(f"group is {group}; it must divide the {size} samples of the batch.")
    number, shift = np.arange(size), np.asarray(range(among) if shifts is None else shifts)
    within = number % among
    rows = number - within + (within - shift[:, None]) % among
    return jax.tree.map(lambda x: x[rows], z)


def cosine(a: State, b: State) -> Float[Array, " B"]:
    """Return the cosine of the angle between the states of each sample, over all leaves.

    It is 1 for two zero states and 0 for a zero state and another one. It is NaN where a state is
    not finite. It is differentiable, and its derivative at a zero state is finite.
    """
    a, b = (in_unit(x, lax.stop_gradient(unit_of(x))) for x in (a, b))
    squares = inner(a, a), inner(b, b)
    size_a, size_b = (jnp.sqrt(jnp.where(x == 0, 1, x)) for x in squares)
    both_zero = (squares[0] == 0) & (squares[1] == 0)
    return jnp.where(both_zero, 1, jnp.clip(inner(a, b) / (size_a * size_b), -1, 1))


# The largest contraction that is told apart from 1.
_SLOWEST = 0.999


def gradient_error(
    result: SolverResult,
    adjoint: Float[Array, "B 2"],
    stop_mode: Literal["rel", "abs"] = "rel",
) -> Float[Array, " B"]:
    """Return an estimate of the relative error of each sample's exact gradient, from both solves.

        e_b + e_f / (1 − ρ_b),  e = r / (1 − ρ)

    The indices f and b stand for the forward and the backward solve, r for the relative residual,
    and ρ for the contraction per step that the solve showed. A map that contracts by ρ has its
    fixed point within r / (1 − ρ). An error of the state reaches the gradient through J too, and
    the adjoint equation amplifies it by up to 1 / (1 − ρ_b). The estimate assumes that second
    derivatives of f are about 1 and that the contraction shown is the map's. It gives the order of
    magnitude of the error.

    Args:
      result: the `SolverResult` of the forward solve.
      adjoint: (steps, residual) of the adjoint solve, the cotangent of `adjoint_probe`. The adjoint
        solver must have ``stop_scope="sample"``.
      stop_mode: the forward solver's stop_mode.
    """
    relative = result.residual
    if stop_mode == "abs":
        relative = relative * reciprocal(norm(result.z))
    shown = result.residual / jnp.where(result.trace[0] > 0, result.trace[0], 1)
    forward = _contraction(shown, result.steps - 1)
    backward = _contraction(adjoint[:, 1], adjoint[:, 0])
    return (adjoint[:, 1] + relative / (1 - forward)) / (1 - backward)


def _contraction(ratio: Float[Array, " B"], steps: Array) -> Float[Array, " B"]:
    """Return the factor per step, given the factor of all steps; 0 where no step was taken."""
    factor = jnp.where(ratio > 0, ratio, 1) ** (1 / jnp.maximum(steps, 1))
    return jnp.where((steps > 0) & (ratio > 0), jnp.minimum(factor, _SLOWEST), 0)


def _pullback(
    f: Callable[[State, Any], State], z: State, args: PyTree
) -> tuple[State, Callable[[State], State]]:
    """Return z and v ↦ vᵀJ; under `shard_map` z varies with f, and each device has its own J."""
    z = vary_together(z, like=f(z, args))
    _, pullback = jax.vjp(lambda z: f(z, args), z)
    return z, lambda v: pullback(v)[0]


def _squared_norm(tree: State) -> Float[Array, ""]:
    return inner(tree, tree).sum()
