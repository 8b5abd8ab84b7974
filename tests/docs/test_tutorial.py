"""The tutorial runs from top to bottom, and what it says of its results holds."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from mdeq_jax.solvers import Status

pytestmark = pytest.mark.slow
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.fixture(scope="module")
def names():
    code = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.S)
    names = {"__name__": "tutorial"}
    for block in code:
        exec(compile(block, TUTORIAL.name, "exec"), names)
    return names


def test_the_layer_learns(names):
    assert names["accuracy"] > 0.9
    assert names["result"].converged.mean() > 0.9


def test_a_contraction_is_told_by_its_spectral_radius(names):
    assert names["radius"].shape == (397,)
    assert 0 < names["radius"].mean() < 1


def test_cheaper_gradients_point_where_the_exact_one_does(names):
    cosines = names["cosines"]
    assert cosines["exact"] == pytest.approx(1, abs=1e-6)
    assert cosines["neumann"] == pytest.approx(cosines["phantom"], abs=1e-3)
    assert all(cosine > 0.9 for cosine in cosines.values())
    assert cosines["jacobian-free"] < cosines["phantom"]


def test_two_resolutions_and_a_solver_of_ones_own(names):
    assert names["fine_and_coarse"].converged.all()
    mine, (params, x) = names["mine"], names["args"]
    gap = np.linalg.norm(names["cell"](mine.z, (params, x)) - mine.z, axis=1)
    assert gap[mine.converged].max() < 1e-3
    assert (names["searched"].status == Status.CONVERGED).all()
    # Of J it asks more than Broyden's method does.
    assert 0.97 < mine.converged.mean() <= names["result"].converged.mean()
    assert jax.tree.structure(names["HeavyBall"]()).num_leaves == 0  # a static pytree
