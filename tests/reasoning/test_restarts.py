"""Choices among restarts, by hand and on simulated sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.reasoning import restarts
from mdeq_jax.reasoning.restarts import calibrate, lowest_residual, majority, weighted_answers

# Compiled as one program, which is quicker than operation by operation.
weighted, effective_classes = map(jax.jit, (weighted_answers, restarts.effective_classes))


def answers_of(labels):
    """Grids (R, B, 1, 2) that differ in one position only, one for each label (R, B)."""
    labels = np.asarray(labels)
    return np.stack([np.zeros_like(labels), labels], axis=-1)[:, :, None]


def labels_of(answers):
    return answers[..., 0, 1]


def test_one_restart_is_believed_as_far_as_it_is_trusted():
    for classes in (2, 4.5, 1e6):
        answer, believed = weighted(answers_of([[3, 0]]), jnp.array([[0.7, 0.2]]), classes)
        np.testing.assert_array_equal(labels_of(answer), [3, 0])
        np.testing.assert_allclose(believed, [0.7, 0.2], rtol=1e-4)


def test_the_votes_of_three_restarts_by_hand():
    """With K = 4 the odds are 3t / (1 − t): 27, 3 and 3 here, and 1 for answers without a vote."""
    labels = [[5, 5, 5], [7, 7, 5], [7, 9, 5]]
    trust = jnp.broadcast_to(jnp.array([[0.9], [0.5], [0.5]]), (3, 3))
    answer, believed = weighted(answers_of(labels), trust, 4)
    np.testing.assert_array_equal(labels_of(answer), [5, 5, 5])
    odds, total = np.array([27, 27, 27 * 9]), np.array([27 + 9 + 2, 27 + 3 + 3 + 1, 27 * 9 + 3])
    np.testing.assert_allclose(believed, odds / total, rtol=1e-4)
    np.testing.assert_array_equal(labels_of(majority(answers_of(labels))), [7, 5, 5])


def test_more_answers_than_classes():
    """All that is possible was given, and the believed probabilities sum to one."""
    _, believed = weighted(answers_of([[1], [2], [3]]), jnp.full((3, 1), 0.6), 2)
    np.testing.assert_allclose(believed, 1 / 3, rtol=1e-5)


def test_the_lowest_residual_is_chosen_and_never_nan():
    answers = answers_of([[1, 1, 1], [2, 2, 2]])
    residual = jnp.array([[0.1, jnp.nan, 0.3], [0.2, 0.5, 0.3]])
    np.testing.assert_array_equal(labels_of(lowest_residual(answers, residual)), [1, 2, 1])


def simulated(p, classes, examples):
    """Labels (R, B) of independent restarts that are right with p (R,); the right one is 0."""
    rng = np.random.default_rng(0)
    wrong = rng.integers(1, classes, (len(p), examples))
    return np.where(rng.uniform(size=wrong.shape) < p[:, None], 0, wrong)


def test_belief_is_right_for_independent_restarts_and_wrong_for_copies():
    p, classes, examples = np.array([0.6, 0.5, 0.4, 0.4, 0.3]), 4, 10_000
    labels = simulated(p, classes, examples)
    trust = np.broadcast_to(p[:, None], labels.shape)
    answer, believed = map(np.asarray, weighted(answers_of(labels), trust, classes))
    right = labels_of(answer) == 0
    # It is the probability of each answer, and not only right on average.
    confident = believed > np.median(believed)
    for group in (np.full(examples, True), confident, ~confident):
        error = right[group].std() / group.sum() ** 0.5
        assert abs(right[group].mean() - believed[group].mean()) < 4 * error
    assert believed[confident].mean() - believed[~confident].mean() > 0.2

    copies = np.broadcast_to(labels[:1], labels.shape)
    answer, believed = weighted(answers_of(copies), np.full(labels.shape, p[0]), classes)
    np.testing.assert_array_equal(labels_of(answer), labels[0])
    assert believed.mean() > 0.95
    assert abs((labels_of(answer) == 0).mean() - 0.6) < 0.02


def test_effective_classes_of_uniform_errors():
    labels = simulated(np.full(6, 0.3), 5, 3000)
    found = effective_classes(answers_of(labels), labels == 0)
    np.testing.assert_allclose(found, 5, rtol=0.05)


def test_effective_classes_by_hand():
    labels = jnp.array([[1, 0], [1, 0], [2, 3], [0, 0]])  # one pair of three agrees
    np.testing.assert_allclose(effective_classes(answers_of(labels), labels == 0), 1 + 5 / 2)
    right = jnp.ones((3, 2), bool)
    assert effective_classes(answers_of(jnp.zeros((3, 2), int)), right) == 3


def test_calibration_counts_in_bins_of_both_features():
    """Two bins each: the edges are the medians, and the prior is worth two answers."""
    residual = jnp.array([0.1, 0.1, 0.1, 0.2, 0.7, 0.8, 0.9, jnp.nan])
    alignment = jnp.array([0.9, 0.9, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1])
    right = jnp.array([1, 1, 0, 1, 1, 0, 0, 0], bool)
    found = calibrate(right, residual, alignment, bins=2)
    # Rows: low and high residual; columns: low and high alignment.
    np.testing.assert_allclose(found.table, [[2 / 4, 3 / 4], [1 / 4, 2 / 4]])
    trust = found.trust(
        jnp.array([[0.0, 5.0], [jnp.nan, 0.2]]), jnp.array([[1.0, 0.0], [0.0, 0.0]])
    )
    np.testing.assert_allclose(trust, [[3 / 4, 1 / 4], [1 / 4, 2 / 4]])


def test_calibration_where_a_feature_does_not_vary():
    right = jnp.arange(90) % 3 == 0
    found = calibrate(right, jnp.arange(90.0), jnp.ones(90), bins=3, prior=(3, 1))
    np.testing.assert_allclose(found.trust(jnp.array([10.0, 50.0]), jnp.ones(2)), 13 / 34)
    np.testing.assert_allclose(found.table[0, 0], 3 / 4)  # no answer has this pair of bins


def test_calibrated_trust_is_the_probability():
    """P(right) rises with alignment and falls with the residual; held-out answers show by how
    much."""
    rng = np.random.default_rng(0)
    residual, alignment = rng.uniform(size=(2, 40_000)).astype(np.float32)
    p = (alignment + 1 - residual) / 2
    found = calibrate(rng.uniform(size=40_000) < p, residual, alignment, bins=8)
    error = found.trust(residual, alignment) - p
    # Within a pair of bins p differs from its mean by 1/48 on average, the mean of |x| of a
    # triangular law on ±1/16. The share of right answers among 625 adds about 0.015.
    assert abs(error).mean() < 0.03
    assert abs(error.mean()) < 0.01


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"trust \(3, 1\); trust must have the first two"):
        weighted_answers(answers_of([[1, 2]]), jnp.ones((3, 1)), 4)
    one = jnp.ones(2)
    with pytest.raises(ValueError, match=r"the shapes \(2,\), \(2,\) and \(3,\)"):
        calibrate(one > 0, one, jnp.ones(3))
    with pytest.raises(ValueError, match="with n of at least 1"):
        calibrate(one[:0] > 0, one[:0], one[:0])
    with pytest.raises(ValueError, match="bins is 0; it must be at least 1"):
        calibrate(one > 0, one, one, bins=0)
