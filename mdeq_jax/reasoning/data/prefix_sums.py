"""Prefix sums modulo two: the parity of all bits up to each position."""

import random

import numpy as np
from jaxtyping import UInt8

from mdeq_jax.checks import require_whole
from mdeq_jax.reasoning.data.problems import Problems, Split, draw_distinct


def generate(count: int, bits: int, seed: int, split: Split = "train") -> Problems:
    """Return distinct random bit strings with the parity of each of their prefixes.

        yᵢ = x₀ ⊕ x₁ ⊕ … ⊕ xᵢ

    Args:
      count: the number N of strings.
      bits: the length W of the strings, at least 1.
      seed: at least 0; it determines the strings.
      split: "train" or "test"; no string belongs to both.

    Returns:
      Inputs (N, 1, W, 1), bit − 0.5; targets (N, 1, W), the parity; every position is counted.

    Raises:
      ValueError: an argument is out of range, or there are fewer distinct strings.

    Source: Schwarzschild et al., "Datasets for Studying Generalization from Easy to Hard Examples",
    arXiv 2108.06011.

    Examples:
      >>> problems = generate(count=2, bits=8, seed=0)
      >>> problems.inputs.shape, problems.targets.shape
      ((2, 1, 8, 1), (2, 1, 8))
    """
    require_whole("bits", bits, 1)

    def draw(rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
        string = np.frombuffer(rng.randbytes(bits), np.uint8) & 1
        return string, np.bitwise_xor.accumulate(string)

    return as_problems(*draw_distinct(draw, count, seed, split))


def as_problems(strings: UInt8[np.ndarray, "N W"], parities: UInt8[np.ndarray, "N W"]) -> Problems:
    """Return bit strings and the parities of their prefixes, all entries 0 or 1, as problems."""
    inputs = strings[:, None, :, None].astype(np.float32) - np.float32(0.5)
    targets = parities[:, None].astype(np.int32)
    return Problems(inputs, targets, np.ones(targets.shape, bool))
