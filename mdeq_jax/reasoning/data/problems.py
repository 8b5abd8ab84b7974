"""Problems on a grid of positions, and how distinct problems are drawn for training and test."""

import hashlib
import random
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from mdeq_jax.checks import require_one_of, require_whole

Split = Literal["train", "test"]
# Draws a question and its answer, both as small whole numbers.
DrawProblem = Callable[[random.Random], tuple[UInt8[np.ndarray, "..."], UInt8[np.ndarray, "..."]]]

# Each split holds about half of all problems, and the last of them are rarely hit.
_DRAWS_PER_PROBLEM = 64


class Problems(NamedTuple):
    """N problems of one size, each a class to predict at every position of a grid.

    Attributes:
      inputs: what the model sees at each position.
      targets: the class of each position, from 0.
      counted: whether the loss and the score count the position.
    """

    inputs: Float32[np.ndarray, "N H W C"]
    targets: Int32[np.ndarray, "N H W"]
    counted: Bool[np.ndarray, "N H W"]

    def example(self, number: int) -> dict[str, np.ndarray]:
        """Return one problem: the row of this number of each field, by the field's name."""
        return {name: array[number] for name, array in self._asdict().items()}


def split_of(question: UInt8[np.ndarray, "..."]) -> Split:
    """Return the split that a question belongs to: the lowest bit of its BLAKE2b hash.

    The rule depends on the question alone, so training and test problems differ whatever their
    seeds are. A checksum such as CRC would not do: it is linear over the bits, and whoever knows
    the split of a bit string would know the parity of some of its bits.

    Args:
      question: small whole numbers, of any shape.
    """
    digest = hashlib.blake2b(question.tobytes(), digest_size=1).digest()
    return get_args(Split)[digest[0] & 1]


def draw_distinct(
    draw: DrawProblem, count: int, seed: int, split: Split
) -> tuple[UInt8[np.ndarray, "N ..."], UInt8[np.ndarray, "N ..."]]:
    """Return distinct questions of a split with their answers, determined by the seed.

    Args:
      draw: draws one question and its answer with the generator that it is handed.
      count: the number N of questions, at least 1.
      seed: at least 0.
      split: "train" or "test"; no question belongs to both, see `split_of`.

    Raises:
      ValueError: an argument is out of range, or the split has fewer than N questions.
    """
    require_whole("count", count, 1)
    require_whole("seed", seed, 0)
    require_one_of("split", split, get_args(Split))
    rng = random.Random(seed)
    drawn = {}
    for _ in range(_DRAWS_PER_PROBLEM * (count + 100)):
        question, answer = draw(rng)
        if split_of(question) == split:
            drawn.setdefault(question.tobytes(), (question, answer))
        if len(drawn) == count:
            questions, answers = zip(*drawn.values(), strict=True)
            return np.stack(questions), np.stack(answers)
    raise ValueError(
        f"count is {count}, but only {len(drawn)} distinct problems of this size were found in the "
        f"{split} split; ask for fewer or for a larger size."
    )
