"""What can be learnt from a trained model without training: silenced scales, and latency."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from mdeq_jax.comparison.measure import (
    Cost,
    Measurement,
    evaluate,
    evaluation_images,
    median_seconds,
)
from mdeq_jax.solvers import State, solve
from mdeq_jax.vision.load import Trained
from mdeq_jax.vision.model import create_model

STEP_LIMITS = (1, 2, 4, 6, 8, 12, 18, 30)
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)


def silence(f: Callable[[State, Any], State], branch: int | None) -> Callable[[State, Any], State]:
    """Return f with the output of one branch at zero; from z0 = 0 it stays there.

    Args:
      f: the cell, its state a tuple with an entry per branch.
      branch: index of the branch; None silences nothing.
    """

    def silenced(z: State, args: Any) -> State:
        return tuple(jnp.zeros_like(h) if i == branch else h for i, h in enumerate(f(z, args)))

    return silenced


def silenced_scales(trained: Trained) -> tuple[Measurement, ...]:
    """Evaluate the model as it is, then with each scale held at zero, for the head as well."""
    config = trained.config
    model = create_model(config.model, dtype=config.compute_dtype)
    solver = config.solver.forward.build()

    def predictor(branch: int | None) -> Callable[[Array], tuple[Array, Array]]:
        @jax.jit
        def predict(variables: PyTree, images: Array) -> tuple[Array, Array]:
            problem: Any = model.apply(variables, images, method="problem")
            result = solve(silence(problem.f, branch), problem.z0, problem.args, solver)
            logits: Any = model.apply(variables, result.z, method="predict")
            return logits, result.steps

        return functools.partial(predict, trained.variables)

    rows = []
    for branch in (None, *range(config.model.num_branches)):
        name = "none" if branch is None else f"scale {branch}"
        rows.append(dataclasses.replace(evaluate(predictor(branch), config.data), name=name))
    return tuple(rows)


def latency(trained: Trained) -> tuple[Measurement, ...]:
    """Evaluate under fewer and more steps at the config's tolerance, then under other tolerances.

    One compiled solve serves all, so that times differ by what is computed alone.
    """
    config = trained.config
    model = create_model(config.model, dtype=config.compute_dtype)
    most = max(STEP_LIMITS)
    solver = dataclasses.replace(config.solver.forward, max_steps=most).build()
    images = evaluation_images(config)

    @jax.jit
    def predict(variables: PyTree, limit: Array, tol: Array, images: Array) -> tuple[Array, Array]:
        output: Any = model.apply(variables, images, solver=solver, step_limit=limit, tol=tol)
        logits, info = output
        return logits, info.solver.steps

    def row(name: str, limit: int, tol: float) -> Measurement:
        limits = (jnp.asarray(limit), jnp.asarray(tol))
        limited = functools.partial(predict, trained.variables, *limits)
        cost = Cost(median_seconds(functools.partial(limited, images)))
        return dataclasses.replace(evaluate(limited, config.data), name=name, cost=cost)

    by_steps = [row(f"step limit {limit}", limit, solver.tol) for limit in STEP_LIMITS]
    return *by_steps, *(row(f"tolerance {tol:g}", most, tol) for tol in TOLERANCES)
