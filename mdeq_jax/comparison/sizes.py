"""Numbers of parameters, and the size of a model that has a given one."""

import bisect
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn


def count_parameters(model: nn.Module, image_size: tuple[int, ...]) -> int:
    """Return the number of trainable parameters; nothing is computed but shapes.

    Args:
      model: whose `init` takes images (B, H, W, 3).
      image_size: (H, W).

    Raises:
      ValueError: the image size does not fit the model.
    """
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def nearest(target: int, count: Callable[[int], int]) -> int:
    """Return the size k ≥ 1 whose count(k) is nearest to the target.

    Args:
      target: the count that is wanted.
      count: does not fall with k, and grows beyond any bound.
    """
    count = functools.cache(count)
    upper = 1
    while count(upper) < target:
        upper *= 2
    first = bisect.bisect_left(range(upper + 1), target, lo=1, key=count)
    return min((max(first - 1, 1), first), key=lambda k: abs(count(k) - target))
