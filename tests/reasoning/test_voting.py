"""Voting with trust: optimality, stability of correctness and the gap, exactly and from draws."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.reasoning import voting
from mdeq_jax.reasoning.voting import beta_trust, log_odds, stability, support, vote

PRIOR, TRIALS, SOURCES = (7.0, 3.0), 10, 5
# Compiled as one program, which is quicker than operation by operation.
accuracy, optimal_accuracy = map(jax.jit, (voting.accuracy, voting.optimal_accuracy))


def by_enumeration(p, weights):
    """The accuracy, summed over all outcomes one by one; a tie goes to the first source."""
    total = 0.0
    for right in itertools.product((True, False), repeat=len(p)):
        probability = np.prod(np.where(right, p, 1 - p))
        score = np.dot(weights, np.where(right, 1, -1))
        total += probability * (right[0] if score == 0 else score > 0)
    return total


@pytest.mark.parametrize("n", [1, 4, 7])
def test_accuracy_is_the_sum_over_all_outcomes(x64, n):
    rng = np.random.default_rng(n)
    p = rng.uniform(size=n)
    weights = np.stack([rng.normal(size=n), np.ones(n), np.zeros(n)], axis=1)
    expected = [by_enumeration(p, column) for column in weights.T]
    np.testing.assert_allclose(accuracy(p, weights), expected, rtol=1e-12)


def test_accuracy_of_a_majority_of_thirty(x64):
    """With equal weights it is a binomial tail; half of the votes win if the first is right."""
    p, n = 0.6, 30
    law = np.ones(1)
    for _ in range(n):
        law = np.convolve(law, [1 - p, p])
    share = n // 2 / n  # of the outcomes with half of the votes right, those where the first is
    tie = law[n // 2] * share
    np.testing.assert_allclose(
        accuracy(jnp.full(n, p), jnp.ones(n)), law[n // 2 + 1 :].sum() + tie, rtol=1e-9
    )


def test_many_votes_at_once_are_the_votes_one_by_one(x64):
    rng = np.random.default_rng(0)
    p, weights = rng.uniform(size=(4, 2, 3)), rng.normal(size=4)
    expected = [[by_enumeration(p[:, i, j], weights) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(accuracy(p, weights), expected, rtol=1e-12)


def test_no_weights_are_better_than_the_log_odds(x64):
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(5, 200))
    best = optimal_accuracy(p)
    others = accuracy(p[..., None], rng.normal(size=(5, 200, 20)))
    assert (others <= best[:, None] + 1e-12).all()
    assert (best >= np.maximum(p, 1 - p).max(0) - 1e-12).all()  # the best source alone


def test_log_odds_of_certain_sources_are_finite():
    certain = log_odds(jnp.array([0.0, 1.0]))
    assert jnp.isfinite(certain).all()
    assert certain[0] == -certain[1] < -10
    np.testing.assert_allclose(log_odds(0.25, classes=4), 0, atol=1e-6)  # no better than a guess


def test_a_vote_is_won_by_weight_and_tied_to_the_earliest():
    labels = jnp.array([[5, 2], [9, 2], [9, 7]])
    np.testing.assert_array_equal(vote(labels, jnp.ones(3)), [9, 2])
    np.testing.assert_array_equal(vote(labels, jnp.array([2.0, 1.0, 1.0])), [5, 2])
    weights = jnp.array([[1.5, 1.0], [1.0, 1.0], [1.0, 3.0]])  # one for each vote
    np.testing.assert_array_equal(support(labels, weights), [[1.5, 2], [2, 2], [2, 3]])
    np.testing.assert_array_equal(vote(labels, weights), [9, 7])


def test_votes_are_right_as_often_as_their_accuracy():
    p, draws = jnp.array([0.9, 0.7, 0.6, 0.6]), 20_000
    right = jax.random.bernoulli(jax.random.key(0), p[:, None], (4, draws))
    for weights in (log_odds(p), jnp.ones(4)):
        expected = accuracy(p, weights)
        error = jnp.sqrt(expected * (1 - expected) / draws)
        assert abs(vote(right, weights).mean() - expected) < 4 * error


@pytest.mark.parametrize("biased", [False, True])
def test_stability_of_correctness_is_exact(x64, biased):
    """E[A(p, w(t)) | t] = A(t, w(t)) for each t, where each p has one of three values. It fails
    for a trust that is the share of right trials."""
    values, law, trials, n = np.array([0.55, 0.7, 0.95]), np.array([0.5, 0.3, 0.2]), 3, 3
    k = np.arange(trials + 1)[:, None]
    joint = law * np.array([1, 3, 3, 1])[:, None] * values**k * (1 - values) ** (trials - k)
    posterior = joint / joint.sum(1, keepdims=True)  # (k, value)
    counts = np.indices((trials + 1,) * n).reshape(n, -1, 1)
    chosen = np.indices((len(values),) * n).reshape(n, 1, -1)
    trust = np.clip(counts / trials, 0.05, 0.95) if biased else (posterior @ values)[counts]
    probability = posterior[counts, chosen].prod(0)
    np.testing.assert_allclose(probability.sum(1), 1)
    actual = (accuracy(values[chosen], log_odds(trust)) * probability).sum(1)
    believed = optimal_accuracy(trust)[:, 0]
    if biased:
        assert (actual - believed).min() < -0.1
    else:
        np.testing.assert_allclose(actual, believed, atol=1e-12)


@pytest.fixture(scope="module")
def found():
    """A function of 20 numbers of trials: estimates of `stability`, each from its own draws."""
    run = jax.jit(jax.vmap(lambda n, key: stability(PRIOR, n, SOURCES, key, draws=1000)))
    return lambda trials: run(jnp.asarray(trials), jax.random.split(jax.random.key(0), 20))


def expected_belief():
    """The expectation of A(t, w(t)) over the counts of all sources, by their beta-binomial law."""
    a, b = PRIOR
    beta = lambda x, y: math.gamma(x) * math.gamma(y) / math.gamma(x + y)  # noqa: E731
    law = np.array(
        [math.comb(TRIALS, k) * beta(a + k, b + TRIALS - k) / beta(a, b) for k in range(TRIALS + 1)]
    )
    np.testing.assert_allclose(law.sum(), 1)
    counts = np.array(list(itertools.combinations_with_replacement(range(TRIALS + 1), SOURCES))).T
    times = (counts[None] == np.arange(TRIALS + 1)[:, None, None]).sum(1)
    orders = math.factorial(SOURCES) / np.vectorize(math.factorial)(times).prod(0)
    return optimal_accuracy(beta_trust(counts, TRIALS, PRIOR)) @ (law[counts].prod(0) * orders)


def test_stability_of_correctness_from_draws(found):
    values = np.array(found([TRIALS] * 20), float)
    believed, actual, optimal, bound = values.mean(1)
    errors = values.std(1, ddof=1) / 20**0.5
    gap = values[1] - values[0]
    assert abs(gap.mean()) < 4 * gap.std(ddof=1) / 20**0.5
    assert abs(believed - expected_belief()) < 4 * errors[0]
    # Another program's estimates, from 10,000 draws of its own.
    others = np.hypot(errors[:3], 0.0009)
    assert (abs(values.mean(1)[:3] - [0.8622, 0.8625, 0.8888]) < 4 * others).all()
    assert 0.02 < optimal - actual < bound


def test_the_gap_is_bounded_and_vanishes_with_trials(found):
    estimates = found(np.repeat([0, 1, 10, 100, 10_000], 4))
    gaps = estimates.optimal - estimates.actual
    assert (gaps >= 0).all()
    assert (gaps <= estimates.bound).all()
    mean = gaps.reshape(5, 4).mean(1)
    assert (np.diff(mean) < 0).all()
    assert mean[-1] < 1e-4
    # Without trials all sources have the trust 0.7, and the vote is a majority.
    by_majority = by_enumeration(np.full(SOURCES, 0.7), np.ones(SOURCES))
    np.testing.assert_allclose(estimates.believed[:4], by_majority, rtol=1e-5)


def test_a_biased_trust_believes_too_much():
    rng = np.random.default_rng(0)
    p = rng.beta(*PRIOR, (SOURCES, 10_000))
    trust = np.clip(rng.binomial(TRIALS, p) / TRIALS, 0.05, 0.95)
    believed, actual = optimal_accuracy(trust).mean(), accuracy(p, log_odds(trust)).mean()
    np.testing.assert_allclose([believed, actual], [0.920, 0.846], atol=0.004)


def test_what_accuracy_refuses():
    with pytest.raises(ValueError, match=r"p has shape \(3,\) and weights \(2,\)"):
        accuracy(jnp.ones(3), jnp.ones(2))
    for n in (0, 41):
        with pytest.raises(ValueError, match=f"p has {n} sources; the exact accuracy takes 1 to"):
            optimal_accuracy(jnp.ones(n))
