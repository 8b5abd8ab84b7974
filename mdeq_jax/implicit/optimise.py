"""Joint inference and input optimisation: the best input of an equilibrium, by one fixed point.

Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in Equilibrium
Networks", NeurIPS 2021.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from mdeq_jax.checks import require_whole
from mdeq_jax.implicit.augmented import (
    AtInput,
    Augmented,
    Cost,
    Map,
    Project,
    Residuals,
    Steps,
    augmented_map,
    check_steps,
    first_order_residuals,
    projected,
)
from mdeq_jax.implicit.deq import DEQ, Solution
from mdeq_jax.implicit.envelope import cost_with_envelope
from mdeq_jax.implicit.slices import join_results
from mdeq_jax.solvers import Anderson, SolverResult, State
from mdeq_jax.solvers.norms import vary_together
from mdeq_jax.solvers.solver import as_state, check_map, check_per_sample

MeritOfCost = Callable[[Float[Array, " B"], Float[Array, " B"]], Float[Array, " B"]]
_STEPS, _DEQ = Steps(), DEQ(Anderson(max_steps=300, tol=1e-5))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Optimum:
    """What `optimise` returns.

    Attributes:
      z: the equilibrium at x.
      x: the input with the lowest cost, a stationary point of it, in the set of the projection.
      mu: the multiplier. It is the u that `Exact` finds for the loss ℓ at (z, x).
      cost: ℓ(z, x), (B,). Its gradient is ∂ℓ/∂args + μ ∂f/∂args, by the envelope theorem, which
        needs no adjoint solve. The gradient of z, x and μ is the adjoint's.
      residuals: the residuals of the first-order conditions.
      solution: the `Solution` of the last augmented solve, for losses on sampled states. Its result
        has the steps and the traces of all solves.
      cell: the map f at the input x and its equilibrium z, both without gradient, as a `Solution`
        for `jacobian_loss` and `spectral_radius`.
    """

    z: State
    x: State
    mu: State
    cost: Float[Array, " B"]
    residuals: Residuals
    solution: Solution
    cell: Solution

    @property
    def result(self) -> SolverResult:
        """The `SolverResult` of the augmented solve, with the steps of all stages."""
        return self.solution.result


def optimise(
    f: Map,
    cost: Cost,
    z0: State,
    x0: State,
    args: PyTree,
    *,
    mu0: State | None = None,
    deq: Callable[..., Solution] = _DEQ,
    steps: Steps | tuple[Steps, ...] = _STEPS,
    project: Project | None = None,
    merit: MeritOfCost | None = None,
    starts: int | None = None,
) -> Optimum:
    """Return a minimum of ℓ(z, x) over x, where z = f(z, x), for each sample of the batch.
    Call it under `jax.jit`: outside, each call compiles anew.

    One fixed-point solve finds z, x and the multiplier μ together, instead of one solve for each
    step of an optimiser. Its fixed points meet the first-order conditions of the problem,

        z = f(z, x),    μ = ∂ℓ/∂z + μ ∂f/∂z,    x = P(x − ∂ℓ/∂x − μ ∂f/∂x),

    where P is the projection. Each step costs one evaluation of f and ℓ and one pullback. A
    stationary point need not be the lowest one if ℓ has several in x; try several starts.

    The result is differentiable in args and in what f, cost and project close over. If the outer
    loss is ℓ itself, use `Optimum.cost`, whose gradient costs one pullback. If it is another
    function of z, x or μ, its gradient is the implicit one through the first-order conditions, from
    the adjoint of `deq`. Both can be differentiated again.

    Args:
      f: the map (z, x, args) -> z, pure, each sample of the batch by itself. It keeps structure,
        shapes and dtypes of z.
      cost: the function (z, x, args) -> ℓ, pure, one floating-point number for each sample, (B,).
      z0: where the equilibrium starts, a pytree of floating-point arrays (B, ...).
      x0: where the input starts, a pytree of floating-point arrays (B, ...), or (S, B, ...) with
        ``starts=S``. The gradient with respect to z0, x0 and mu0 is 0.
      args: any pytree of arrays, the arguments of f and cost.
      mu0: where the multiplier starts, like z0; None starts from 0.
      deq: how the augmented equilibrium is solved and differentiated: a `DEQ`, or the layer that
        the training loop hands to a forward pass.
      steps: the step sizes of the augmented map, or a tuple of them, one for each stage. Each stage
        is one solve of up to ``max_steps`` steps, which starts where the last one ended, with an
        empty memory. The adjoint differentiates the last stage.
      project: the projection P onto the set of inputs that are allowed, each sample by itself, of
        the structure, shapes and dtypes of x. It is applied in each step and to the returned x;
        None allows all inputs.
      merit: the function (ℓ, residual) -> (B,) by which the iterates of a sample are compared that
        has not converged. The lowest is returned and sampled. None compares residuals.
      starts: S, at least 1: every sample is solved from each of its S inputs x0, and keeps its best
        start: the one of the lowest ℓ that converged or, if none did, of the lowest merit. The
        differentiated solve begins at what was found there. None has one start.

    Returns:
      An `Optimum`. Nothing is raised for a sample that did not converge; `Optimum.residuals` says
      how far it is from the first-order conditions, and ``optimum.result.status`` why it stopped.

    Raises:
      ValueError: at trace time. z0, x0 or mu0 is not a state, they disagree on the batch, or mu0
        has other shapes than z0; x0 has another first axis than `starts`; a start that is not
        traced is not finite; f or project returns other shapes than it is given; cost or merit does
        not return one number for each sample; steps are not `Steps`, or out of range; deq is not a
        layer.

    Examples:
      The x whose equilibrium z = z / 2 + x is 3, at a price of x² / 10:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> def f(z, x, price):
      ...     return z / 2 + x
      >>> def cost(z, x, price):
      ...     return ((z - 3) ** 2 + price * x**2).sum(axis=-1) / 2
      >>> zero = jnp.zeros((1, 1))
      >>> best = jax.jit(lambda price: mx.optimise(f, cost, zero, zero, price))
      >>> [round(float(v), 3) for v in (best(0.2).x[0, 0], best(0.2).z[0, 0], best(0.2).cost[0])]
      [1.429, 2.857, 0.214]

      The gradient of the cost is x² / 2, and the one of x is −6 / (4 + price)²:

      >>> round(float(jax.grad(lambda price: best(price).cost.sum())(0.2)), 2)
      1.02
      >>> round(float(jax.grad(lambda price: best(price).x.sum())(0.2)), 2)
      -0.34

      Only inputs up to 1 are allowed:

      >>> o = mx.optimise(f, cost, zero, zero, 0.0, project=lambda x: jnp.minimum(x, 1))
      >>> round(float(o.x[0, 0]), 3), round(float(o.z[0, 0]), 3)
      (1.0, 2.0)

    Source: Gurumurthy, Bai, Manchester, Kolter, "Joint Inference and Input Optimization in
    Equilibrium Networks", NeurIPS 2021. Their released code has no implicit gradient of x.
    """
    stages = steps if isinstance(steps, tuple) else (steps,)
    w0 = _start(z0, x0, mu0, starts)
    one = w0 if starts is None else w0._replace(x=jax.tree.map(lambda x: x[0], w0.x))
    _check(f, cost, project, deq, stages, one, args)
    # Inside `shard_map` derivatives by a start that does not vary would be summed over devices.
    w0 = vary_together(w0, like=(f(one.z, one.x, args), cost(one.z, one.x, args)))
    # XLA takes seconds to fold norms of large constant zeros while it compiles.
    w0 = lax.optimization_barrier(w0)
    step, options = augmented_map(f, cost, project), {}

    def cost_of(w: Augmented) -> Float[Array, " B"]:
        return cost(w.z, projected(project, w.x), args)

    if merit is not None:
        options["merit"] = lambda w, residual: merit(cost_of(w), residual)
    # The layer of a training step has a start of its own, and solves on from any state.
    solve, start = getattr(deq, "solve", deq), getattr(deq, "start", lambda w: w)

    def run(w: Augmented, stages: tuple[Steps, ...]) -> Solution:
        found = []
        for stage in stages:
            found.append(solve(step, lax.stop_gradient(w), (args, stage), **options))
            w = found[-1].z
        return dataclasses.replace(found[-1], result=join_results([x.result for x in found]))

    if starts is None:
        solution = run(start(w0), stages)
    else:
        each = lambda x: run(start(w0._replace(x=x)), stages).result  # noqa: E731
        tried = _best(jax.vmap(each)(w0.x), cost_of, merit)
        solution = run(tried.z, stages[-1:])
        solution = dataclasses.replace(solution, result=join_results([tried, solution.result]))
    w = solution.z._replace(x=projected(project, solution.z.x))
    residuals = lax.stop_gradient(first_order_residuals(f, cost, project, w, args))
    value = cost_with_envelope(f, cost, project, w, args)
    z, x = lax.stop_gradient((w.z, w.x))
    cell = Solution(z, solution.result, (), (x, args), AtInput(f))
    return Optimum(w.z, w.x, w.mu, value, residuals, solution, cell)


def _best(
    results: SolverResult,
    cost_of: Callable[[Augmented], Float[Array, " B"]],
    merit: MeritOfCost | None,
) -> SolverResult:
    """Return the result of each sample's best start.

    Args:
      results: the results of all starts; every leaf has their number as its first axis.
      cost_of: the cost of a point.
      merit: by what starts are compared that have not converged; None is the residual.
    """
    value, residual, converged = jax.vmap(cost_of)(results.z), results.residual, results.converged
    score = residual if merit is None else jax.vmap(merit)(value, residual)
    score = jnp.where(converged.any(axis=0), jnp.where(converged, value, jnp.inf), score)
    best = jnp.where(jnp.isnan(score), jnp.inf, score).argmin(axis=0)

    def pick(tree: PyTree, axis: int = 0) -> PyTree:
        each = lambda i, tree: jax.tree.map(lambda x: x[i], tree)  # noqa: E731
        return jax.vmap(each, in_axes=(0, axis + 1), out_axes=axis)(best, tree)

    own = results._replace(trace=None, states=None)
    return pick(own)._replace(trace=pick(results.trace, axis=1))


def _start(z0: State, x0: State, mu0: State | None, starts: int | None) -> Augmented:
    """Return the start of the augmented solve; raises ValueError unless it is a finite state."""
    given = {"z0": z0, "x0": x0} | ({} if mu0 is None else {"mu0": mu0})
    states = {name: as_state(start, name) for name, start in given.items()}
    one = states
    if starts is not None:
        require_whole("starts", starts, 1)
        if (found := jax.tree.leaves(states["x0"])[0].shape[0]) != starts:
            raise ValueError(
                f"x0 has a first axis of {found}, but starts is {starts}; with several starts "
                "every leaf of x0 is (starts, B, ...)."
            )
        one = states | {"x0": as_state(jax.tree.map(lambda x: x[0], states["x0"]), "x0[0]")}
    batches = {name: jax.tree.leaves(state)[0].shape[0] for name, state in one.items()}
    if len(set(batches.values())) > 1:
        raise ValueError(
            f"The starts have different batches: {batches}. Give each sample its own start."
        )
    for name, start in given.items():
        known = [x for x in jax.tree.leaves(start) if not isinstance(x, Tracer)]
        if not all(np.isfinite(x).all() for x in known):
            raise ValueError(
                f"There is no finite start: {name} has an entry that is infinite or NaN. Start "
                "from zeros, or from a point whose cost is finite."
            )
    mu = states.get("mu0", jax.tree.map(jnp.zeros_like, states["z0"]))
    like, own = (jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", w) for w in (states["z0"], mu))
    if jax.tree.flatten(like) != jax.tree.flatten(own):
        raise ValueError(f"mu0 is {own}; it must have the structure and shapes of z0, {like}.")
    return Augmented(states["z0"], states["x0"], mu)


def _check(
    f: Map,
    cost: Cost,
    project: Project | None,
    deq: Any,
    stages: tuple[Any, ...],
    w: Augmented,
    args: PyTree,
) -> None:
    """Raise ValueError unless arguments have their types, and functions return their shapes."""
    if not callable(deq) or isinstance(deq, type):
        raise ValueError(
            f"deq is {deq!r}; it must be a layer, such as DEQ(Anderson(max_steps=300, tol=1e-5))."
        )
    if not stages:
        raise ValueError("steps is (); it must be Steps(...), or a tuple of at least one.")
    for stage in stages:
        check_steps(stage)
    check_map(w.z, jax.eval_shape(lambda z, x: f(z, x, args), w.z, w.x))
    check_per_sample("cost", jax.eval_shape(lambda z, x: cost(z, x, args), w.z, w.x), w.z)
    if project is not None:
        check_map(w.x, jax.eval_shape(project, w.x), "project")
