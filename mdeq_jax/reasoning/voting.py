"""Weighted majority voting with trust: the accuracy that is believed, reached and possible.

Sources vote independently, and source i is right with probability p_i. Only an estimate of p_i, its
trust t_i, is known. The rule that weighs each vote by the log odds of its trust

- is as accurate as its trust makes believe, if the trust is unbiased, E[p_i | t] = t_i, and the p_i
  are independent given t: E[A(p, w(t)) | t] = A(t, w(t)), because A is linear in each p_i;
- is less accurate than the rule that knows p. The gap is at most Σ_i E|p_i − t_i|, because the
  optimal accuracy A*(p) = max_w A(p, w) changes by at most |p_i − t_i| when p_i becomes t_i.

The functions need only jax. The sources are the first axis of every array.

Source: Bai, Wang, Muller, Cheng, Chen, "Stability of Weighted Majority Voting under Estimated
Weights", AAMAS 2024, arXiv 2207.06118.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

_MOST_SOURCES = 40


class Stability(NamedTuple):
    """Expected accuracies of a vote by trust, in [0, 1].

    Attributes:
      believed: expectation of A(t, w(t)), the accuracy if each source were as good as its trust.
      actual: expectation of A(p, w(t)), the accuracy that the vote has.
      optimal: expectation of A*(p), the accuracy of the vote that knows p.
      bound: Σ_i E|p_i − t_i|, the largest possible value of ``optimal - actual``.
    """

    believed: Float[Array, ""]
    actual: Float[Array, ""]
    optimal: Float[Array, ""]
    bound: Float[Array, ""]


def log_odds(
    p: Float[Array, "..."] | float, classes: Float[Array, ""] | float = 2
) -> Float[Array, "..."]:
    """Return log((K − 1) p / (1 − p)), the optimal weight of a vote that is right with p.

    It is optimal for independent sources whose errors are uniform over the K − 1 wrong classes.

    Args:
      p: probabilities in [0, 1]. They are clipped to [ε, 1 − ε], where ε is the precision of their
        dtype, so that all weights are finite.
      classes: number of classes K, above 1. An estimate need not be a whole number.

    Examples:
      >>> float(log_odds(0.5)), round(float(log_odds(0.5, classes=4)), 3)
      (0.0, 1.099)

    Source: Nitzan, Paroush, "Optimal Decision Rules in Uncertain Dichotomous Choice Situations",
    International Economic Review 1982.
    """
    p = jnp.asarray(p, float)
    smallest = jnp.finfo(p.dtype).eps
    p = jnp.clip(p, smallest, 1 - smallest)
    return jnp.log(jnp.asarray(classes, p.dtype) - 1) + jnp.log(p) - jnp.log1p(-p)


def support(
    labels: Int[Array, "n ..."], weights: Float[Array, "n ..."] | Float[Array, " n"]
) -> Float[Array, "n ..."]:
    """Return, for each vote, the summed weights of all votes for the same label.

    Args:
      labels: label that each of n sources votes for.
      weights: weight of each source, or of each vote.
    """
    return _over_sources(_support, "(n),(n)->(n)", labels, weights)


def vote(
    labels: Int[Array, "n ..."], weights: Float[Array, "n ..."] | Float[Array, " n"]
) -> Int[Array, "..."]:
    """Return the label of the largest summed weight; in a tie, the label of the earliest source.

    Args:
      labels: label that each of n sources votes for. A label without a vote is never returned.
      weights: weight of each source, or of each vote.

    Examples:
      Two weak sources outvote a strong one or not, depending on their weights:

      >>> import jax.numpy as jnp
      >>> labels = jnp.array([3, 7, 7])
      >>> [int(vote(labels, jnp.array([strong, 1.5, 1.5]))) for strong in (2.0, 4.0)]
      [7, 3]
    """
    winner = support(labels, weights).argmax(0)
    return jnp.take_along_axis(jnp.asarray(labels), winner[None], axis=0)[0]


def accuracy(
    p: Float[Array, "n ..."], weights: Float[Array, "n ..."] | Float[Array, " n"]
) -> Float[Array, "..."]:
    """Return the exact probability that the weighted vote of independent sources is right.

        A(p, w) = Σ_v [Σ_i w_i v_i > 0] · Π_i P(v_i),  v_i = 1 (right) with p_i, else −1

    The vote is between two labels, and in a tie the first source decides. Sources of negative
    weight count for the other label, even if nobody votes for it. Time and memory grow as 2^(n/2)
    per vote: the outcomes of one half of the sources are looked up among the sorted outcomes of the
    other half.

    Args:
      p: probability that each of n sources is right, in [0, 1].
      weights: weight of each source; the shapes (n,) and (n, ...) broadcast.

    Raises:
      ValueError: there are no sources, more than 40, or another number of weights.

    Examples:
      Three sources, two of which must be right: 0.6³ + 3 · 0.6² · 0.4

      >>> import jax.numpy as jnp
      >>> round(float(accuracy(jnp.full(3, 0.6), jnp.ones(3))), 4)
      0.648
    """
    p, weights = jnp.asarray(p, float), jnp.asarray(weights, float)
    if p.shape[:1] != weights.shape[:1]:
        raise ValueError(
            f"p has shape {p.shape} and weights {weights.shape}; their first axis, the sources, "
            "must be the same."
        )
    if not 1 <= len(p) <= _MOST_SOURCES:
        raise ValueError(
            f"p has {len(p)} sources; the exact accuracy takes 1 to {_MOST_SOURCES}. For more, "
            "average vote(jax.random.bernoulli(key, p, (draws, n)).T, weights) over many draws."
        )
    return _over_sources(_accuracy, "(n),(n)->()", p, weights)


def optimal_accuracy(p: Float[Array, "n ..."]) -> Float[Array, "..."]:
    """Return A*(p) = max_w A(p, w), the accuracy of the vote weighted by the log odds of p.

    Args:
      p: probability that each of n sources is right, in [0, 1].

    Raises:
      ValueError: there are no sources, or more than 40.
    """
    return accuracy(p, log_odds(p))


def beta_trust(
    right: Shaped[Array, "..."] | float,
    trials: Shaped[Array, "..."] | float,
    prior: tuple[float, float],
) -> Float[Array, "..."]:
    """Return (a + right) / (a + b + trials), the mean of the posterior of a Beta(a, b) prior.

    It is an unbiased trust if the prior is the distribution of the sources' p. The share of right
    answers, which is its value at the prior (0, 0), is biased.

    Args:
      right: number of trials in which a source was right, in [0, trials].
      trials: number of trials.
      prior: (a, b), both above 0. Its mean is a / (a + b), and it weighs as much as a + b trials.
    """
    a, b = prior
    return (a + jnp.asarray(right, float)) / (a + b + trials)


def stability(
    prior: tuple[float, float],
    trials: Int[Array, ""] | int,
    sources: int,
    key: PRNGKeyArray,
    draws: int = 10_000,
) -> Stability:
    """Return the expected accuracies of a vote by trust, estimated from draws of the sources.

    Each source has p ~ Beta(a, b) and is right in k ~ Binomial(trials, p) trials; its trust is
    `beta_trust` of k. All four expectations are means over the same draws. The standard error of
    each accuracy is at most ½ / √draws.

    Args:
      prior: (a, b), both above 0.
      trials: number of trials of each source, at least 0; may be traced.
      sources: number of sources, in [1, 40].
      key: from which p and k are drawn.
      draws: number of draws, at least 1.

    Raises:
      ValueError: there are no sources, or more than 40.
    """
    p_key, right_key = jax.random.split(key)
    p = jax.random.beta(p_key, *prior, (sources, draws))
    trust = beta_trust(jax.random.binomial(right_key, trials, p), trials, prior)
    return Stability(
        believed=optimal_accuracy(trust).mean(),
        actual=accuracy(p, log_odds(trust)).mean(),
        optimal=optimal_accuracy(p).mean(),
        bound=jnp.abs(p - trust).sum(0).mean(),
    )


def _over_sources(function: Callable[..., Array], signature: str, *arrays: Array) -> Array:
    """Apply a function of arrays (n,) along their first axes, and broadcast the other axes."""
    last = [jnp.moveaxis(jnp.asarray(x), 0, -1) for x in arrays]
    result = jnp.vectorize(function, signature=signature)(*last)
    return jnp.moveaxis(result, -1, 0) if signature.endswith("->(n)") else result


def _support(labels: Int[Array, " n"], weights: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.where(labels[:, None] == labels, weights, 0).sum(-1)


def _accuracy(p: Float[Array, " n"], weights: Float[Array, " n"]) -> Float[Array, ""]:
    half = (len(p) + 1) // 2
    scores, probabilities = _outcomes(p[:half], weights[:half])
    other_scores, other_probabilities = _outcomes(p[half:], weights[half:])
    order = other_scores.argsort()
    below = jnp.concatenate([jnp.zeros(1, p.dtype), other_probabilities[order].cumsum()])
    # The first source is right in the first half of the outcomes, and then a tie is won too.
    losses = [
        jnp.searchsorted(other_scores[order], -part, side=side)
        for part, side in zip(jnp.split(scores, 2), ("left", "right"), strict=True)
    ]
    return probabilities @ (below[-1] - below[jnp.concatenate(losses)])


def _outcomes(
    p: Float[Array, " n"], weights: Float[Array, " n"]
) -> tuple[Float[Array, " 2**n"], Float[Array, " 2**n"]]:
    """Return Σ_i w_i v_i and the probability of each v; in the first half of them, v_0 = 1."""
    scores, probabilities = jnp.zeros(1, p.dtype), jnp.ones(1, p.dtype)
    for q, weight in zip(p[::-1], weights[::-1], strict=True):
        scores = jnp.concatenate([scores + weight, scores - weight])
        probabilities = jnp.concatenate([probabilities * q, probabilities * (1 - q)])
    return scores, probabilities
