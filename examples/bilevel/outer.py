"""HOAG: gradient descent on the penalty, with ever more accurate inner solves."""

import dataclasses
import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from examples.bilevel.data import Problem
from examples.bilevel.hypergradient import (
    MEMORY,
    Method,
    hypergradient,
    inner_gradient,
    log_penalty,
    mean_loss,
    require_float64,
    solve_inner,
)
from examples.bilevel.lbfgs import Minimum, Pairs, no_pairs

_evaluate = jax.jit(mean_loss)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of the outer loop.

    Attributes:
      penalty: first penalty, > 0.
      outer_steps: number of hyper-gradients, ≥ 1.
      first_tolerance: first tolerance on the inner gradient's norm, relative to its norm at the
        start, in (0, 1).
      decay: factor of the tolerance from one outer step to the next, in (0, 1].
      last_tolerance: absolute tolerance at which the decay ends, > 0.
    """

    penalty: float = 100.0
    outer_steps: int = 20
    first_tolerance: float = 1e-3
    decay: float = 0.78
    last_tolerance: float = 1e-6

    def __post_init__(self) -> None:
        """Check the ranges."""
        log_penalty(self.penalty)
        if self.outer_steps < 1:
            raise ValueError(f"outer_steps is {self.outer_steps}; it must be at least 1.")
        if not 0 < self.first_tolerance < 1:
            raise ValueError(f"first_tolerance is {self.first_tolerance}; it must be in (0, 1).")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay is {self.decay}; it must be in (0, 1], such as 0.78.")
        if not self.last_tolerance > 0:
            raise ValueError(f"last_tolerance is {self.last_tolerance}; it must be above 0.")


class Step(NamedTuple):
    """The state after an outer step; counts and seconds are sums from the start.

    Attributes:
      penalty: exp(θ).
      validation: mean loss over the validation examples.
      test: mean loss over the test examples.
      hypergradient: dL/dθ, as estimated.
      inner_steps: number of L-BFGS steps.
      evaluations: number of inner gradients that L-BFGS evaluated.
      seconds: time of solves and hyper-gradients.
      backward_seconds: time of hyper-gradients only.
    """

    penalty: float
    validation: float
    test: float
    hypergradient: float
    inner_steps: int
    evaluations: int
    seconds: float
    backward_seconds: float


def optimise(problem: Problem, method: Method, settings: Settings) -> list[Step]:
    """Minimise the validation loss over the logarithm θ of the penalty.

    θ ← θ − (dL/dθ) / ℓ. The first step has length 1, and no step is longer. After a step, ℓ doubles
    if dL/dθ has changed sign, because the step went too far; otherwise ℓ shrinks by 0.7. Each solve
    starts from the weights and the pairs of the previous solve.

    Raises:
      ValueError: JAX has float64 off.

    Source: Pedregosa (ICML 2016), algorithm 1, which chooses the step size by the loss instead.
    """
    require_float64()
    z = jnp.zeros(problem.train.features.shape[1])
    pairs = no_pairs(MEMORY, z)
    theta = log_penalty(settings.penalty)
    scale = float(jnp.linalg.norm(inner_gradient(z, jnp.asarray(theta), problem.train)))
    steps: list[Step] = []
    smoothness = 0.0
    for index in range(settings.outer_steps):
        relative = settings.first_tolerance * settings.decay**index
        tol = max(relative * scale, settings.last_tolerance)
        fit, step = _outer_step(problem, method, theta, z, pairs, tol)
        z, pairs = fit.z, fit.pairs
        slope = step.hypergradient
        if not steps:
            smoothness = abs(slope) or 1.0
        else:
            smoothness *= 2.0 if slope * steps[-1].hypergradient < 0 else 0.7
            step = _summed(steps[-1], step)
        steps.append(step)
        theta -= min(max(slope / smoothness, -1.0), 1.0)
    return steps


def _outer_step(
    problem: Problem,
    method: Method,
    theta: float,
    z: Float[Array, "F"],
    pairs: Pairs,
    tol: float,
) -> tuple[Minimum, Step]:
    """Fit the weights and differentiate; counts and seconds are those of this step only."""
    at = jnp.asarray(theta)
    started = time.perf_counter()
    fit = solve_inner(problem.train, at, z, pairs, tol, opa_every=method.opa_every)
    jax.block_until_ready(fit)
    solved = time.perf_counter()
    slope = float(hypergradient(problem, at, fit.z, fit.pairs, method.inverse))
    ended = time.perf_counter()
    step = Step(
        penalty=math.exp(theta),
        validation=float(_evaluate(fit.z, problem.validation)),
        test=float(_evaluate(fit.z, problem.test)),
        hypergradient=slope,
        inner_steps=int(fit.steps),
        evaluations=int(fit.evaluations),
        seconds=ended - started,
        backward_seconds=ended - solved,
    )
    return fit, step


def _summed(before: Step, step: Step) -> Step:
    return step._replace(
        inner_steps=before.inner_steps + step.inner_steps,
        evaluations=before.evaluations + step.evaluations,
        seconds=before.seconds + step.seconds,
        backward_seconds=before.backward_seconds + step.backward_seconds,
    )
