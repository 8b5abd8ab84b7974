"""The pages for users of other libraries: the code runs, and the names of both sides exist."""

import operator
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import pytest

import mdeq_jax as mx

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "coming_from_jaxopt.md").read_text()
EXACT = np.linalg.solve(np.array([[0.5, -0.4], [0.3, 0.8]]), [1.0, 2.0])
close = np.testing.assert_allclose


@pytest.fixture(scope="module")
def names():
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(block, "coming_from_jaxopt.md", "exec"), names)
    return names


def slope(function, at, step=1e-2):
    return (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.slow
def test_one_problem_is_a_batch_of_one(names):
    close(names["z"][0], EXACT, rtol=1e-5)
    assert names["result"].converged.tolist() == [True]
    theirs = jaxopt.FixedPointIteration(names["affine"], maxiter=100, tol=1e-6)
    close(names["z"][0], theirs.run(names["z0"], (names["A"], names["b"])).params, rtol=1e-5)


@pytest.mark.slow
def test_a_state_without_a_batch_axis_is_many_samples(names):
    assert names["mistaken"].steps.tolist() == [30, 30]
    assert not names["mistaken"].converged.any()


@pytest.mark.slow
def test_mapped_problems_are_solved_each_by_itself(names):
    inverse = np.linalg.inv(np.eye(2) - names["A"])
    close(names["solutions"], names["several"] @ inverse.T, rtol=1e-5)
    close(names["solutions"][0], names["z"][0], rtol=1e-5)
    assert names["steps"][0] == names["result"].steps[0]


@pytest.mark.slow
def test_bound_arguments_and_auxiliary_output_are_differentiated(names):
    args = (names["A"], names["b"])
    close(names["slope"], slope(lambda gain: names["loss"](gain, args)[0], 0.8), rtol=1e-3)
    assert names["aux"]["largest"] > 0


@pytest.mark.slow
def test_a_fixed_point_found_elsewhere_has_the_gradient_of_a_linear_solve(names):
    def explicit(matrix):
        return (jnp.linalg.solve(jnp.eye(2) - matrix, names["b"]) ** 2).sum()

    close(names["gradient"], jax.grad(explicit)(names["A"]), rtol=1e-4)
    assert names["check"].steps.tolist() == [0]
    assert names["check"].converged.all()


@pytest.mark.slow
def test_only_a_compiled_function_is_reused(names):
    close(names["fast"](names["A"], names["b"]), EXACT, rtol=1e-5)
    calls = []

    def counted(z, args):
        calls.append(None)
        return names["batched"](z, args)

    def alone(b):
        return mx.equilibrium(counted, names["z0"][None], (names["A"], b), solver=names["solver"])

    def traces_of_second_call(function):
        function(names["b"])
        first = len(calls)
        function(names["b"])
        return len(calls) - first

    assert traces_of_second_call(alone) > 0
    assert traces_of_second_call(jax.jit(alone)) == 0


@pytest.mark.parametrize("package", ["jaxopt", "optimistix"])
def test_their_names_exist(package):
    module = pytest.importorskip(package)
    found = set(re.findall(rf"`(?:adjoint=)?{package}\.([\w.]+)", PAGE))
    assert len(found) > 5
    for name in found:
        operator.attrgetter(name)(module)


@pytest.mark.parametrize("page", ["coming_from.md", "coming_from_jaxopt.md", "originals.md"])
def test_our_names_exist(page):
    text = (DOCS / page).read_text()
    for name in re.findall(r"`[^`\n]*\bmx\.(\w+)", text):
        assert hasattr(mx, name), name
    for name in re.findall(r"`(?:SolverResult|result)\.(\w+)`", text):
        assert name in mx.SolverResult._fields, name
