"""The page on optimising over the input: its code runs, and does what the page says."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[2] / "docs" / "optimising.md").read_text()


@pytest.fixture(scope="module")
def names():
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(block, "optimising.md", "exec"), names)
    return names


def test_every_sample_converges(names):
    assert names["optimum"].result.converged.all()
    assert names["bounded"].result.converged.all()
    for residual in names["optimum"].residuals:
        assert (residual < 1e-3).all()


def test_the_bound_is_kept_and_costs_something(names):
    lengths = np.linalg.norm(names["bounded"].x, axis=-1)
    assert (lengths < 1 + 1e-6).all()
    assert (lengths > 1 - 1e-3).any()
    assert (names["bounded"].cost >= names["optimum"].cost - 1e-4).all()


@pytest.mark.parametrize("which", ["by_envelope", "implicit"])
def test_gradients_are_slopes(names, which):
    weights, step = names["weights"], 1e-2
    loss = {
        "by_envelope": lambda w: names["best"](w).cost.sum(),
        "implicit": lambda w: (names["best"](w).x ** 2).sum(),
    }[which]
    along = jax.tree.map(lambda w: jax.random.normal(jax.random.key(1), w.shape), weights)
    moved = [jax.tree.map(lambda w, d, s=s: w + s * d, weights, along) for s in (step, -step)]
    slope = (loss(moved[0]) - loss(moved[1])) / (2 * step)
    ours = sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), names[which], along)))
    np.testing.assert_allclose(ours, slope, rtol=0.05, atol=0.05)
