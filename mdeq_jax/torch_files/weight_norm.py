"""Weight norm in files: g and v folded into a weight, or a weight split into g and v."""

import re
from collections.abc import Collection, Mapping

import numpy as np

from mdeq_jax.torch_files.reader import LazyArray


def fold_weight_norm(
    arrays: Mapping[str, LazyArray], wanted: Collection[str]
) -> dict[str, LazyArray]:
    """Return arrays with weight norm in the form of the wanted names: weight = g v / ‖v‖.

    Args:
      arrays: arrays by PyTorch name.
      wanted: PyTorch names of the arrays that the model needs.
    """
    folded = dict(arrays)
    for weight in sorted({re.sub(r"\.weight_[gv]$", ".weight", name) for name in wanted}):
        g, v = f"{weight}_g", f"{weight}_v"
        if weight in wanted and weight not in folded and g in folded and v in folded:
            folded[weight] = _product(folded.pop(g), folded.pop(v))
        elif v in wanted and weight in folded and g not in folded and v not in folded:
            folded[g], folded[v] = _split(folded.pop(weight))
    return folded


def _product(g: LazyArray, v: LazyArray) -> LazyArray:
    def read() -> np.ndarray:
        direction = v.read().astype(np.float64)
        length = _length(direction)
        return g.read().reshape(length.shape) * direction / length

    # A g that does not fit v is an error, like a v of another shape.
    shape = v.shape if g.shape == (*v.shape[:1], 1, 1, 1) else g.shape
    return LazyArray(shape, v.dtype, read)


def _split(weight: LazyArray) -> tuple[LazyArray, LazyArray]:
    def read_v() -> np.ndarray:
        kernel = weight.read().astype(np.float64)
        # A channel of zeros has no direction. Its length is 0, so any direction will do.
        return np.where(_length(kernel) == 0, 1.0, kernel)

    def read_g() -> np.ndarray:
        length = _length(weight.read().astype(np.float64))
        return length.reshape(-1, 1, 1, 1)

    g = LazyArray((*weight.shape[:1], 1, 1, 1), weight.dtype, read_g)
    return g, LazyArray(weight.shape, weight.dtype, read_v)


def _length(kernel: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(kernel).sum(axis=tuple(range(1, kernel.ndim)), keepdims=True))
