"""The interpolated trigram model, the baseline of character models.

    p(c | a b) = w₃ n(a b c) / n(a b) + w₂ n(b c) / n(b) + w₁ n(c) / n + w₀ / V

n counts in the training text; V is the size of the vocabulary. Where n(a b) or n(b) is 0, the term
has the probability of the next shorter context. The weights maximise the likelihood of the last
tenth of the training text, given counts of the rest; then all of the training text is counted.

Source: Jelinek and Mercer, "Interpolated estimation of Markov source parameters from sparse data",
1980.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

_ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class Trigram:
    """A trigram model.

    Attributes:
      tokens: the training text.
      size: V, the number of tokens of the vocabulary.
      weights: w₀ to w₃; they sum to 1.
    """

    tokens: Int[np.ndarray, " n"]
    size: int
    weights: Float[np.ndarray, " 4"]

    def bits(self, tokens: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """Return −log₂ p of each token of a text, given the two tokens before it.

        The first token has no context, and the second one a context of one token.
        """
        return -np.log2(self.weights @ _estimates(self.tokens, tokens, self.size))


def fit_trigram(tokens: Int[np.ndarray, " n"], size: int) -> Trigram:
    """Return the trigram model of a text.

    Args:
      tokens: the training text, at least 10 tokens in [0, size).
      size: number of tokens of the vocabulary.
    """
    cut = len(tokens) * 9 // 10
    estimates = _estimates(tokens[:cut], tokens[cut:], size)
    weights = np.full(4, 0.25)
    for _ in range(_ITERATIONS):  # expectation maximisation
        shares = weights[:, None] * estimates
        weights = (shares / shares.sum(axis=0)).mean(axis=1)
    return Trigram(tokens, size, weights)


def _estimates(
    train: Int[np.ndarray, " n"], tokens: Int[np.ndarray, " m"], size: int
) -> Float[np.ndarray, "4 m"]:
    """Return the probability of each token by the uniform model and by orders 1 to 3."""
    estimates = [np.full(len(tokens), 1 / size)]
    for order in (1, 2, 3):
        seen, asked = _ngrams(train, order, size), _ngrams(tokens, order, size)
        both, context = _occurrences(seen, asked), _occurrences(seen // size, asked // size)
        estimate = estimates[-1].copy()
        at = np.arange(order - 1, len(tokens))[context > 0]
        estimate[at] = (both / np.maximum(context, 1))[context > 0]
        estimates.append(estimate)
    return np.stack(estimates)


def _ngrams(
    tokens: Int[np.ndarray, " n"], order: int, size: int
) -> Int[np.ndarray, " n_minus_order_plus_1"]:
    """Return the n-grams of a text as numbers to the base `size`."""
    numbers = np.zeros(max(0, len(tokens) - order + 1), np.int64)
    for k in range(order):
        numbers = numbers * size + tokens[k : k + len(numbers)]
    return numbers


def _occurrences(
    seen: Int[np.ndarray, " n"], asked: Int[np.ndarray, " m"]
) -> Int[np.ndarray, " m"]:
    """Return how often each asked number is among the seen ones."""
    numbers, counts = np.unique(seen, return_counts=True)
    place = np.searchsorted(numbers, asked).clip(max=len(numbers) - 1)
    return np.where(numbers[place] == asked, counts[place], 0)
