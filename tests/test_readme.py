"""The README's first example runs as it stands."""

import re
from pathlib import Path

import numpy as np


def test_the_example_of_a_cell_of_ones_own():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    example = re.search(r"```python\n(.*?)```", readme, re.S).group(1)
    names = {}
    exec(example, names)
    assert names["result"].converged.all()
    # The gradient is that of the loss: compare with a difference along one direction.
    loss, weights, x = names["loss"], names["weights"], np.ones((4, 8), np.float32)
    direction = np.ones((8, 8), np.float32)
    step = 1e-2
    above, below = (loss(weights + sign * step * direction, x)[0] for sign in (1, -1))
    difference = (above - below) / (2 * step)
    np.testing.assert_allclose((names["gradient"] * direction).sum(), difference, rtol=2e-2)
