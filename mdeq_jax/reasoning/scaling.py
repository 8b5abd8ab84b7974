"""How accuracy grows with solver steps and with restarts from random states.

Each problem is solved from the initial state of the evaluations, and again from random states.
After any number of steps every restart has an answer, a residual, and an agreement: the cosine
between its state and the state of the first solve. The answers of the restarts are combined by
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
from mdeq_jax.solvers import SolverResult, State, initial_state, solve
from mdeq_jax.stability import cosine, rolled
from mdeq_jax.training.experiment import Batch, Variables

Row = dict[str, float]


class Attempts(NamedTuple):
    """What R restarts reach on B problems after each of S numbers of steps.

    Restart 0 starts from the initial state of the config's evaluations, the others from N(0, I).

    Attributes:
      answers: class of each position; 0 where the position does not count.
      residual: relative residual of the state.
      agreement: cosine between the state and the state of restart 0.
      alignment: cosine between the state of restart 0 and the one that is reached in as many steps
        from restart 0's last state of another problem: the asymptotic alignment score by one roll.
    """

    answers: Int[Array, "B R S H W"]
    residual: Float[Array, "B R S"]
    agreement: Float[Array, "B R S"]
    alignment: Float[Array, "B S"]


def make_attempts(
    experiment: Reasoning, steps: Sequence[int], restarts: int
) -> Callable[[Variables, Batch, PRNGKeyArray], Attempts]:
    """Return the compiled ``attempts(variables, batch, key) -> Attempts``.

    Args:
      experiment: the experiment; its forward solver is used.
      steps: rising numbers of steps, each at least 1.
      restarts: R, at least 1.
    """
    forward, kind = experiment.config.solver.forward, experiment.config.evaluation.initial_state
    solver = dataclasses.replace(forward.build(), max_steps=steps[-1])
    positions = np.asarray(steps) - 1

    @jax.jit
    def attempts(variables: Variables, batch: Batch, key: PRNGKeyArray) -> Attempts:
        f, own, args = experiment.problem(variables, batch["inputs"])

        def run(z0: State, key: PRNGKeyArray) -> SolverResult:
            return solve(f, z0, args, solver, sample_at=tuple(steps), key=key)

        def answer(z: Array) -> Int[Array, "B H W"]:
            outputs = experiment.decode(variables, z, batch, train=False)
            return jnp.where(batch["counted"], experiment.record(outputs), 0)

        def figures(result: SolverResult) -> tuple[Array, Array, Array]:
            residuals = jnp.where(jnp.isnan(result.trace), jnp.inf, result.trace)
            agreement = jax.vmap(cosine)(result.states, first.states)
            return lax.map(answer, result.states), lax.cummin(residuals)[positions], agreement

        def restart(key: PRNGKeyArray) -> tuple[Array, Array, Array]:
            start_key, noise_key = jax.random.split(key)
            return figures(run(initial_state(start_key, own, "normal"), noise_key))

        first_key, roll_key, start_key, rest_key = jax.random.split(key, 4)
        if kind != "own":
            own = initial_state(start_key, own, kind)
        first = run(own, first_key)
        other = jax.tree.map(lambda x: x[0], rolled(first.z, (1,)))
        alignment = jax.vmap(cosine)(run(other, roll_key).states, first.states)
        rest = lax.map(restart, jax.random.split(rest_key, restarts - 1))
        joined = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), figures(first), rest)
        answers, residuals, agreement = (jnp.moveaxis(x, 2, 0) for x in joined)
        return Attempts(answers, residuals, agreement, alignment.T)

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
      Rows with size, steps and restarts; own, the accuracy of restart 0; single, the mean accuracy
      of the restarts; lowest_residual, majority and vote, the accuracies of the answers that the
      three rules choose; any, the share of problems that some restart solves; believed, the
      accuracy that the vote believes in; and the means of residual, agreement (of restarts other
      than restart 0; NaN if there are none) and alignment, the attributes of `Attempts`.
    """
    attempts = make_attempts(experiment, steps, restarts[-1])
    found, truth = [], []
    for number, batch in enumerate(experiment.test_batches(size)):
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
    answers, residual, agreement = (jnp.moveaxis(x, 1, 0) for x in of_restarts)
    # Restart 0 is what the others are compared with; its own agreement is the mean of theirs.
    alone = restarts == 1
    own_agreement = attempts.alignment[:, step] if alone else agreement[1:].mean(0)
    agreement = agreement.at[0].set(own_agreement)
    right = (answers == truth).all((-2, -1))
    half = len(truth) // 2
    calibration = calibrate(
        right[:, :half].ravel(), residual[:, :half].ravel(), agreement[:, :half].ravel()
    )
    classes = effective_classes(answers[:, :half], right[:, :half])
    answers, right, residual = (x[:, half:] for x in (answers, right, residual))
    trust = calibration.trust(residual, agreement[:, half:])
    vote = weighted_answers(answers, trust, classes)

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
        "agreement": float("nan") if alone else float(agreement[1:, half:].mean()),
        "alignment": float(attempts.alignment[half:, step].mean()),
    }
