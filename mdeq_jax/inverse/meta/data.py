"""Tasks of a few points: sinusoids, and few-shot classification of digits."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import optax
from jaxtyping import Array, Float, Float32

from mdeq_jax.images.digits import load_raw

WAYS = 5
Split = Literal["train", "test"]
Points = Float32[np.ndarray, "n _"]
# Outputs and targets -> one number for each point.
PerPoint = Callable[[Float[Array, "B n outputs"], Float[Array, "B n outputs"]], Float[Array, "B n"]]


class Task(NamedTuple):
    """A kind of task.

    Attributes:
      inputs: number of entries of a point.
      outputs: number of entries of a target.
      draw: draws the points and the targets of one task; the arguments are the generator, the
        split, and how many points a task, or each of its classes, has.
      error: what training minimises.
      metric: name of the metric.
      score: what the metric averages.
      higher_is_better: whether a larger metric is the better one.
    """

    inputs: int
    outputs: int
    draw: Callable[[np.random.Generator, Split, int], tuple[Points, Points]]
    error: PerPoint
    metric: str
    score: PerPoint
    higher_is_better: bool


def draw_example(
    task: Task, generator: np.random.Generator, split: Split, shots: int, queries: int
) -> dict[str, Points]:
    """Return one task: support and query points with their targets.

    Args:
      task: the kind of task.
      generator: draws the numbers.
      split: "train" or "test".
      shots: number of support points of the task, or of each of its classes.
      queries: number of query points of the task, or of each of its classes.

    Returns:
      "support_x" and "query_x" (n, inputs), "support_y" and "query_y" (n, outputs), float32.
    """
    x, y = task.draw(generator, split, shots + queries)
    support = len(x) * shots // (shots + queries)
    return {
        "support_x": x[:support],
        "support_y": y[:support],
        "query_x": x[support:],
        "query_y": y[support:],
    }


def draw_sinusoid(
    generator: np.random.Generator, split: Split, count: int
) -> tuple[Points, Points]:
    """Return points x and y = a sin(x − φ) of one sinusoid, each (count, 1).

    a is uniform in [0.1, 5], φ in [0, π], and x in [−5, 5]. Source: Finn, Abbeel, Levine,
    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017, section 5.1.

    Args:
      generator: draws the numbers.
      split: unused; sinusoids are not split.
      count: number of points.
    """
    amplitude, phase = generator.uniform(0.1, 5), generator.uniform(0, np.pi)
    x = generator.uniform(-5, 5, (count, 1))
    return x.astype(np.float32), (amplitude * np.sin(x - phase)).astype(np.float32)


def draw_digits(generator: np.random.Generator, split: Split, count: int) -> tuple[Points, Points]:
    """Return images of five classes in random order, and their one-hot targets.

    Args:
      generator: draws the numbers.
      split: "train" draws from the classes 0 to 4, "test" from 5 to 9.
      count: number of images of each class, at most 174.

    Returns:
      Images (5 count, 64) in [0, 1] and targets (5 count, 5). Neighbours are of different classes:
      row i is of class i mod 5, so that every part of 5 k rows has k of each.
    """
    pools = _digits_by_class()[:WAYS] if split == "train" else _digits_by_class()[WAYS:]
    order = generator.permutation(WAYS)
    images = [pools[i][generator.permutation(len(pools[i]))[:count]] for i in order]
    x = np.stack(images, axis=1).reshape(count * WAYS, -1)
    return x, np.tile(np.eye(WAYS, dtype=np.float32), (count, 1))


@functools.cache
def _digits_by_class() -> list[Float32[np.ndarray, "n 64"]]:
    """Return the images of each of the ten classes."""
    raw = load_raw()
    images = raw.scaled.reshape(-1, 64)
    return [images[raw.labels == label] for label in range(2 * WAYS)]


def _squared_error(outputs: Array, targets: Array) -> Array:
    return ((outputs - targets) ** 2).mean(axis=-1)


def _is_right(outputs: Array, targets: Array) -> Array:
    return (outputs.argmax(axis=-1) == targets.argmax(axis=-1)).astype(outputs.dtype)


TASKS = {
    "sinusoid": Task(1, 1, draw_sinusoid, _squared_error, "mse", _squared_error, False),
    "digits": Task(64, WAYS, draw_digits, optax.softmax_cross_entropy, "accuracy", _is_right, True),
}
