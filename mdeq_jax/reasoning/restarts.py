"""Choose among the answers of several solves of one model: by residual, by majority or by trust.

A restart is a solve from another initial state. Whole answers compete, not positions: an answer
that is wrong in one position is as wrong as any other. Positions that do not count must be equal in
all answers; set them to 0 first.

The believed probabilities hold for independent restarts. Restarts of one model share its errors, so
compare what is believed with the share of right answers, and report both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mdeq_jax.reasoning.voting import beta_trust, log_odds, support


class Winner(NamedTuple):
    """The answer that wins a vote of restarts.

    Attributes:
      answer: (B, H, W) class of each position.
      believed: (B,) probability that the answer is right if the restarts are independent.
    """

    answer: Int[Array, "B H W"]
    believed: Float[Array, " B"]


class Calibration(NamedTuple):
    """The probability that an answer is right, given the residual and the alignment of its solve.

    Attributes:
      residual_edges: residuals that separate the bins, rising.
      alignment_edges: alignments that separate the bins, rising.
      table: probability of each pair of bins.
    """

    residual_edges: Float[Array, " bins-1"]
    alignment_edges: Float[Array, " bins-1"]
    table: Float[Array, "bins bins"]

    def trust(
        self, residual: Float[Array, "..."], alignment: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """Return the probability that an answer is right.

        Args:
          residual: residual at the end of each solve.
          alignment: alignment score of each solve, of the same shape.
        """
        row, column = _bin(self.residual_edges, residual), _bin(self.alignment_edges, alignment)
        return self.table[row, column]


def calibrate(
    right: Bool[Array, " n"],
    residual: Float[Array, " n"],
    alignment: Float[Array, " n"],
    bins: int = 5,
    prior: tuple[float, float] = (1.0, 1.0),
) -> Calibration:
    """Return the share of right answers in each bin of residual and alignment, with a Beta prior.

    The edges of the bins are quantiles, so each feature has about as many samples in every bin. A
    residual that is NaN is in the last bin.

    Args:
      right: whether each of n held-out answers is right; answers of all restarts count.
      residual: residual at the end of each solve.
      alignment: alignment score of each solve.
      bins: number of bins of each feature, at least 1.
      prior: (a, b) as in `beta_trust`; an empty pair of bins has the probability a / (a + b).

    Raises:
      ValueError: bins is below 1, there are no answers, or the shapes are not (n,).
    """
    right, residual, alignment = map(jnp.asarray, (right, residual, alignment))
    if not right.shape == residual.shape == alignment.shape or right.ndim != 1 or right.size == 0:
        raise ValueError(
            f"right, residual and alignment have the shapes {right.shape}, {residual.shape} and "
            f"{alignment.shape}; they must be (n,) with n of at least 1."
        )
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1.")
    cuts = jnp.arange(1, bins) * right.size // bins
    edges = residual.sort()[cuts], alignment.sort()[cuts]
    cell = _bin(edges[0], residual), _bin(edges[1], alignment)
    zeros = jnp.zeros((bins, bins))
    return Calibration(*edges, beta_trust(zeros.at[cell].add(right), zeros.at[cell].add(1), prior))


def weighted_answers(
    answers: Int[Array, "R B H W"],
    trust: Float[Array, "R B"],
    classes: Float[Array, ""] | float,
) -> Winner:
    """Return the answer of the largest summed log odds for each example; in a tie, the earliest.

    Let S_a be the sum of log((K − 1) t / (1 − t)) over the restarts that gave the answer a. If the
    restarts are independent, each is right with its trust t, and errors are uniform over K − 1
    wrong answers, then

        P(a is right) = exp(S_a) / Σ_b exp(S_b)

    over all K answers b, where S_b = 0 for an answer that no restart gave.

    Args:
      answers: answers of R restarts to B examples.
      trust: probability that each of them is right, in [0, 1].
      classes: number of answers K, above 1, such as `effective_classes` of held-out answers. Where
        the restarts gave more than K answers, their number takes its place in the sum.

    Raises:
      ValueError: the shapes do not agree.
    """
    if answers.shape[:2] != trust.shape:
        raise ValueError(
            f"answers has shape {answers.shape} and trust {trust.shape}; trust must have the first "
            "two, restarts and examples."
        )
    labels = _first_equal(answers)
    sums = support(labels, log_odds(trust, classes))
    # Each answer counts once, where it was given first.
    given = labels == jnp.arange(len(labels))[:, None]
    others = jnp.log(jnp.maximum(classes - given.sum(0), 0))
    total = jnp.logaddexp(jax.nn.logsumexp(sums, axis=0, where=given), others)
    return Winner(_choose(answers, sums.argmax(0)), jnp.exp(sums.max(0) - total))


def majority(answers: Int[Array, "R B H W"]) -> Int[Array, "B H W"]:
    """Return the answer that most restarts gave to each example; in a tie, the earliest.

    Args:
      answers: answers of R restarts to B examples.
    """
    return _choose(answers, support(_first_equal(answers), jnp.ones(len(answers))).argmax(0))


def lowest_residual(
    answers: Int[Array, "R B H W"], residual: Float[Array, "R B"]
) -> Int[Array, "B H W"]:
    """Return the answer of the restart with the lowest residual for each example.

    Args:
      answers: answers of R restarts to B examples.
      residual: residual at the end of each solve; one that is NaN is never the lowest.
    """
    return _choose(answers, jnp.where(jnp.isnan(residual), jnp.inf, residual).argmin(0))


def effective_classes(
    answers: Int[Array, "R B H W"], right: Bool[Array, "R B"]
) -> Float[Array, ""]:
    """Return the K for which two wrong answers to one example agree with probability 1 / (K − 1).

    The probability is estimated from all pairs of wrong answers as (agreeing + 1) / (pairs + 2).
    Without any pair, K is 3.

    Args:
      answers: answers of R restarts to B held-out examples.
      right: whether each of them is right.
    """
    earlier = jnp.tril(jnp.ones((len(answers),) * 2, bool), -1)[..., None]
    pairs = ~right[:, None] & ~right[None, :] & earlier
    return 1 + (pairs.sum() + 2) / ((pairs & _equal(answers)).sum() + 1)


def _bin(edges: Float[Array, " bins-1"], values: Float[Array, "..."]) -> Int[Array, "..."]:
    """Return the number of the bin that each value is in; an edge is in the bin above it."""
    return jnp.searchsorted(edges, values, side="right")


def _equal(answers: Int[Array, "R B H W"]) -> Bool[Array, "R R B"]:
    """Return for each pair of restarts whether their answers to an example are equal."""
    # A loop over one of the two axes: all comparisons at once would take R times the memory.
    return jax.lax.map(lambda answer: (answers == answer).all((-2, -1)), answers)


def _first_equal(answers: Int[Array, "R B H W"]) -> Int[Array, "R B"]:
    """Return the number of the first restart that gave the same answer."""
    return _equal(answers).argmax(1)


def _choose(answers: Int[Array, "R B H W"], restart: Int[Array, " B"]) -> Int[Array, "B H W"]:
    return jnp.asarray(answers)[restart, jnp.arange(len(restart))]
