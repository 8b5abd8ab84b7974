"""The examples in docs/examples run as they stand, are shown, and their gradients are right."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def loss_along(loss, params, direction):
    """The derivative of a loss along a direction, by a central difference."""
    step = 1e-2
    moved = (
        jax.tree.map(lambda p, d, sign=sign: p + sign * step * d, params, direction)
        for sign in (1, -1)
    )
    above, below = map(loss, moved)
    return float(above - below) / (2 * step)


def check(loss, params, gradient):
    """Compare along the gradient, where the derivative is its squared norm, and must not be 0."""
    squared = sum(float((g**2).sum()) for g in jax.tree.leaves(gradient))
    assert squared > 0
    unit = jax.tree.map(lambda g: g / squared**0.5, gradient)
    np.testing.assert_allclose(loss_along(loss, params, unit), squared**0.5, rtol=1e-2)


def test_the_page_shows_every_example():
    page = (EXAMPLES.parent / "frameworks.md").read_text()
    shown = re.findall(r'^--8<-- "docs/examples/(.*)"$', page, re.M)
    assert sorted(shown) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def test_linen():
    names = runpy.run_path(str(EXAMPLES / "linen_layer.py"))
    layer, x = names["layer"], names["x"]
    loss = jax.jit(lambda variables: (layer.apply(variables, x) ** 2).mean())
    check(loss, names["variables"], names["gradient"])


def test_nnx():
    names = runpy.run_path(str(EXAMPLES / "nnx_layer.py"))
    graph, params = nnx.split(names["layer"])
    loss = jax.jit(lambda params: (nnx.merge(graph, params)(names["x"]) ** 2).mean())
    check(loss, params, names["gradient"])


def test_equinox():
    pytest.importorskip("equinox")
    names = runpy.run_path(str(EXAMPLES / "equinox_layer.py"))
    loss = lambda layer: (layer(names["x"]) ** 2).mean()  # noqa: E731
    check(loss, names["layer"], names["gradient"])
