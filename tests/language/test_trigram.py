"""The interpolated trigram model: a distribution, counts by hand, and a source that it can know."""

import numpy as np
import pytest

from mdeq_jax.language.trigram import Trigram, fit_trigram


def test_counts_by_hand():
    train = np.array([0, 1, 0, 1, 2])
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    bits = Trigram(train, 4, weights).bits(np.array([1, 0, 1, 3, 3, 2]))
    expected = [
        0.1 / 4 + 0.9 * 2 / 5,  # 1: no context, so every term is n(1) / n
        0.1 / 4 + 0.2 * 2 / 5 + 0.7 * 1 / 2,  # 0 after 1: of 2 times once
        0.1 / 4 + 0.2 * 2 / 5 + 0.3 * 1 + 0.4 * 1,  # 1 after (1, 0)
        0.1 / 4,  # 3 after (0, 1), which never follows
        0.1 / 4,  # (1, 3) and 3 are unseen contexts
        0.1 / 4 + 0.9 * 1 / 5,  # 2 after unseen contexts
    ]
    np.testing.assert_allclose(2.0**-bits, expected, rtol=1e-12)


def test_probabilities_sum_to_one():
    generator = np.random.default_rng(0)
    trigram = fit_trigram(generator.integers(0, 5, 200), 6)
    assert trigram.weights.sum() == pytest.approx(1)
    for context in ([0, 1], [4, 4], [5, 5]):  # the last one is unseen
        last = [trigram.bits(np.array([*context, c]))[-1] for c in range(6)]
        assert (2.0 ** -np.array(last)).sum() == pytest.approx(1)


def test_it_learns_what_the_next_two_tokens_determine():
    """Each token is the sum of the two before it, or with probability 1/4 a random one of 4."""
    generator = np.random.default_rng(1)
    tokens = [0, 1]
    for _ in range(60_000):
        noisy = generator.random() < 0.25
        tokens.append(generator.integers(4) if noisy else (tokens[-1] + tokens[-2]) % 4)
    train, rest = np.split(np.array(tokens), [50_000])
    trigram = fit_trigram(train, 4)
    right, wrong = 13 / 16, 1 / 16
    entropy = -right * np.log2(right) - 3 * wrong * np.log2(wrong)
    assert trigram.bits(rest).mean() == pytest.approx(entropy, abs=0.03)
    assert trigram.weights[3] > 0.9
