"""How accuracy grows with solver steps and with restarts from random states.

Each problem is solved from the model's own initial state, and again from random states. After any
number of steps every restart has an answer, a residual, and an alignment: the cosine between its
state and the one that the own initial state led to. The answers of the restarts are combined by
lowest residual, by majority, and by a vote weighted by trust (`mdeq_jax.reasoning.restarts`). Trust
is calibrated on the first half of the problems; all accuracies are of the second half.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mdeq_jax.reasoning.experiment import Reasoning
from mdeq_jax.reasoning.restarts import (
    calibrate,
    effective_classes,
    lowest_residual,
    majority,
    weighted_answers,
)
from mdeq_jax.solvers import initial_state, solve
from mdeq_jax.stability import alignment, cosine, rolled
from mdeq_jax.training.experiment import Batch, Variables

Row = dict[str, float]


class Attempts(NamedTuple):
    """What R restarts reach on B problems after each of S numbers of steps.

    Restart 0 starts from the model's own initial state.

    Attributes:
      answers: class of each position; 0 where the position does not count.
      residual: relative residual of the state.
      alignment: cosine between the state and the state of restart 0.
      swapped: asymptotic alignment score of each problem after the most steps: the cosine to the
        state reached from the equilibrium of another problem.
    """

    answers: Int[Array, "B R S H W"]
    residual: Float[Array, "B R S"]
    alignment: Float[Array, "B R S"]
    swapped: Float[Array, " B"]


def make_attempts(
    experiment: Reasoning, steps: Sequence[int], restarts: int
) -> Callable[[Variables, Batch, PRNGKeyArray], Attempts]:
    """Return the compiled ``attempts(variables, batch, key) -> Attempts``.

    Args:
      experiment: the experiment; its forward solver is used.
      steps: rising numbers of steps, each at least 1.
      restarts: R, at least 1.
    """
    forward = experiment.config.solver.forward.build()
    solver = dataclasses.replace(forward, max_steps=steps[-1])
    positions = np.asarray(steps) - 1

    @jax.jit
    def attempts(variables: Variables, batch: Batch, key: PRNGKeyArray) -> Attempts:
        f, own, args = experiment.problem(variables, batch["inputs"])

        def answer(z: Array) -> Int[Array, "B H W"]:
            outputs = experiment.decode(variables, z, batch, train=False)
            return jnp.where(batch["counted"], experiment.record(outputs), 0)

        def attempt(number: Int[Array, ""]) -> tuple[Array, Array, Array]:
            own_key = jax.random.fold_in(key, number)
            random = initial_state(own_key, own, "normal")
            start = jax.tree.map(lambda a, b: jnp.where(number == 0, a, b), own, random)
            result = solve(f, start, args, solver, sample_at=tuple(steps), key=own_key)
            cosines = jax.vmap(cosine)(result.states, first.states)
            residuals = lax.cummin(result.trace)[positions]
            return lax.map(answer, result.states), residuals, cosines

        first = solve(f, own, args, solver, sample_at=tuple(steps), key=jax.random.fold_in(key, 0))
        answers, residuals, cosines = (
            jnp.moveaxis(x, 2, 0) for x in lax.map(attempt, jnp.arange(restarts))
        )
        swapped = alignment(f, first.z, args, rolled(first.z, (1,)), solver)
        return Attempts(answers, residuals, cosines, swapped)

    return attempts


def measure(
    experiment: Reasoning,
    variables: Variables,
    *,
    size: int,
    steps: Sequence[int],
    restarts: Sequence[int],
    key: PRNGKeyArray,
) -> list[Row]:
    """Return a row for each number of steps and of restarts, measured on one size of problems.

    Args:
      experiment: the experiment, whose test problems are used.
      variables: the model's variables.
      size: size of the problems.
      steps: rising numbers of steps, each at least 1.
      restarts: rising numbers of restarts, each at least 1.
      key: key of the random states.

    Returns:
      Rows with size, steps and restarts; own, the accuracy from the model's own initial state;
      single, the mean accuracy of the restarts; lowest_residual, majority and vote, the accuracies
      of the answers that the three rules choose; any, the share of problems that some restart
      solves; believed, the accuracy that the vote believes in; and the means of residual, of
      alignment and of swapped, which are attributes of `Attempts`.
    """
    attempts = make_attempts(experiment, steps, restarts[-1])
    found, truth = [], []
    for number, batch in enumerate(experiment.evaluations()[f"eval/{size}"].batches()):
        put, mask = experiment.prepare(batch), batch["mask"]
        of_batch = attempts(variables, put, jax.random.fold_in(key, number))
        found.append(jax.tree.map(lambda x, mask=mask: x[mask], of_batch))
        truth.append(jnp.where(put["counted"], put["targets"], 0)[mask])
    whole: Attempts = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    return [
        {"size": size, "steps": count, "restarts": most}
        | _figures(whole, jnp.concatenate(truth), i, most)
        for i, count in enumerate(steps)
        for most in restarts
    ]


def _figures(attempts: Attempts, truth: Int[Array, "B H W"], step: int, restarts: int) -> Row:
    """Return the figures of the second half of the problems, calibrated on the first half."""
    of_restarts = (x[:, :restarts, step] for x in attempts[:3])
    answers, residual, cosines = (jnp.moveaxis(x, 1, 0) for x in of_restarts)
    right = (answers == truth).all((-2, -1))
    half = len(truth) // 2
    calibration = calibrate(
        right[:, :half].ravel(), residual[:, :half].ravel(), cosines[:, :half].ravel()
    )
    classes = effective_classes(answers[:, :half], right[:, :half])
    answers, right, residual, cosines = (x[:, half:] for x in (answers, right, residual, cosines))
    vote = weighted_answers(answers, calibration.trust(residual, cosines), classes)

    def accuracy(chosen: Int[Array, "B H W"]) -> float:
        return float((chosen == truth[half:]).all((-2, -1)).mean())

    return {
        "own": float(right[0].mean()),
        "single": float(right.mean()),
        "lowest_residual": accuracy(lowest_residual(answers, residual)),
        "majority": accuracy(majority(answers)),
        "vote": accuracy(vote.answer),
        "any": float(right.any(0).mean()),
        "believed": float(vote.believed.mean()),
        "residual": float(residual.mean()),
        "alignment": float(cosines.mean()),
        "swapped": float(attempts.swapped[half:].mean()),
    }
