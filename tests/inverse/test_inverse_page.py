"""The example in docs/inverse.md runs, and its gradient is right."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "inverse.md"


@pytest.mark.slow
def test_the_example():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    optimum = names["optimum"]
    assert optimum.solution.result.converged.all()
    at_zero = (names["target"] ** 2).sum(axis=1)  # the cost of the code 0
    assert (optimum.cost < at_zero).all()
    lowest, args = jax.jit(names["lowest_cost"]), names["args"] | {"target": names["target"]}
    step, gradient = 1e-2, names["gradient"]
    size = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    above, below = (
        lowest(jax.tree.map(lambda a, g, s=sign: a + s * step * g / size, args, gradient))[0]
        for sign in (1, -1)
    )
    np.testing.assert_allclose((above - below) / (2 * step), size, rtol=1e-2)
