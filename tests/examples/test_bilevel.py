"""The bi-level problem on breast-cancer: its fit, its hyper-gradients, its descent, the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

from examples.bilevel import __main__ as command
from examples.bilevel.data import load_problem
from examples.bilevel.hypergradient import (
    METHODS,
    Refined,
    exact,
    hypergradient,
    inner_gradient,
    mean_loss,
    shine,
    solve_inner,
)
from examples.bilevel.lbfgs import no_pairs
from examples.bilevel.outer import Settings, optimise
from examples.bilevel.pictures import plot_bilevel
from examples.bilevel.quality import hypergradient_errors, inversion_quality


@pytest.fixture(scope="module")
def problem():
    return load_problem(0)


def fit(problem, theta, tol=1e-6, opa_every=None):
    z = jnp.zeros(30)
    theta = jnp.asarray(theta)
    return solve_inner(problem.train, theta, z, no_pairs(60, z), tol, opa_every=opa_every)


def test_splits_are_disjoint_and_complete():
    problem = load_problem(3, train_examples=113)
    assert [len(part.labels) for part in problem] == [113, 228, 228]
    rows = np.concatenate([part.features for part in problem])
    assert len(np.unique(rows, axis=0)) == 569
    np.testing.assert_allclose(problem.train.features.std(axis=0), 1)
    assert set(np.concatenate([part.labels for part in problem])) == {-1.0, 1.0}
    assert not np.array_equal(problem.train.labels, load_problem(4, 113).train.labels)


@pytest.mark.parametrize(("penalty", "opa_every"), [(0.1, None), (10.0, 5)])
def test_fit_equals_scikit_learns(x64, problem, penalty, opa_every):
    found = fit(problem, np.log(penalty), tol=1e-9, opa_every=opa_every)
    assert found.converged
    gradient = inner_gradient(found.z, jnp.log(penalty), problem.train)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), found.gradient_norm, atol=1e-11)
    peer = LogisticRegression(
        C=1 / penalty, fit_intercept=False, solver="newton-cholesky", tol=1e-9
    )
    peer.fit(*problem.train)
    np.testing.assert_allclose(found.z, peer.coef_[0], rtol=1e-5, atol=1e-6)


def test_exact_hypergradient_equals_finite_differences(x64, problem):
    theta, h = 1.0, 1e-3
    at = fit(problem, theta, tol=1e-10)
    up, down = (
        mean_loss(fit(problem, theta + d, tol=1e-10).z, problem.validation) for d in (h, -h)
    )
    gradient = hypergradient(problem, jnp.asarray(theta), at.z, at.pairs, exact)
    np.testing.assert_allclose(gradient, (up - down) / (2 * h), rtol=1e-5)


def test_refinement_ends_at_the_exact_one(x64, problem):
    theta = jnp.zeros(())
    at = fit(problem, 0.0)

    def error(inverse):
        truth = hypergradient(problem, theta, at.z, at.pairs, exact)
        return abs(hypergradient(problem, theta, at.z, at.pairs, inverse) / truth - 1)

    assert error(Refined(200)) < 1e-6 < error(Refined(5)) < error(shine) < 1


def test_jacobian_free_is_the_inverse_for_a_unit_hessian(x64):
    v = jnp.arange(3.0)
    estimate = METHODS["jacobian_free"].inverse(lambda w: w, no_pairs(1, v), v)
    np.testing.assert_allclose(exact(lambda w: w, no_pairs(1, v), v), estimate)


def test_opa_inverts_in_the_prescribed_direction(x64):
    aware, plain = inversion_quality(20, opa_every=5), inversion_quality(20)
    assert np.median(aware["prescribed"].cosine) > 0.99
    # The claim of the paper: better than without, and than in a random direction.
    assert np.median(1 - aware["prescribed"].cosine) < 0.2 * min(
        np.median(1 - plain["prescribed"].cosine), np.median(1 - aware["random"].cosine)
    )
    np.testing.assert_allclose(np.median(aware["prescribed"].norm_ratio), 1, atol=0.01)
    for quality in (aware, plain):  # the newest pair is a step, whose secant equation holds
        assert np.all(quality["krylov"].cosine > 1 - 1e-6)


def test_hypergradient_errors_know_the_exact_one(x64):
    np.testing.assert_allclose(hypergradient_errors(METHODS["exact"], 1, 1.0), [0])
    assert hypergradient_errors(METHODS["jacobian_free"], 1, 100.0)[0] > 10


@pytest.mark.parametrize("name", ["exact", "shine_opa"])
def test_descends_to_the_best_penalty(x64, problem, name):
    steps = optimise(problem, METHODS[name], Settings(penalty=100.0, outer_steps=15))
    grid = [mean_loss(fit(problem, t).z, problem.validation) for t in np.linspace(-4, 4, 33)]
    assert len(steps) == 15
    assert steps[0].penalty == pytest.approx(100)
    assert steps[0].validation > 2 * min(grid)
    assert steps[-1].validation < min(grid) + 1e-4
    assert steps[-1].inner_steps > steps[0].inner_steps > 0
    assert steps[-1].seconds > steps[-1].backward_seconds > 0


def test_the_command(tmp_path, capsys):
    arguments = "--methods exact shine --seeds 1 --tries 20 --outer-steps 2 --output"
    assert command.main([*arguments.split(), str(tmp_path / "new")]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    assert set(result) == {"inversion", "hypergradient_error", "outer"}
    assert set(result["outer"]) == {"exact", "shine"}
    assert "outer loop by shine" in printed.err
    assert (tmp_path / "new" / "bilevel.png").stat().st_size > 10_000
    assert not jax.config.read("jax_enable_x64")


def test_no_curve_is_left_out(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    names = list("abcdefg")  # one more than there are colours
    curves = dict.fromkeys(names, np.ones((2, 3)))
    plot_bilevel(curves, curves, tmp_path / "bilevel.png")
    left, right = figures[0].axes
    for axes in (left, right):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    assert len({line.get_color() for line in left.lines}) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seeds 0", "--seeds is 0; it must be at least 1"),
        ("--tries 0", "tries is 0; it must be at least 1"),
        ("--outer-steps 0", "outer_steps is 0; it must be at least 1"),
        ("--penalty -1", "penalty is -1.0; it must be above 0 and finite"),
        ("--penalty nan", "penalty is nan; it must be above 0 and finite"),
    ],
)
def test_the_command_names_what_is_wrong(capsys, arguments, message):
    assert command.main(arguments.split()) == 2
    assert message in capsys.readouterr().err


def test_errors(x64, problem):
    with pytest.raises(ValueError, match="train_examples is 568; of 569 it must be 2 to 565"):
        load_problem(0, train_examples=568)
    with pytest.raises(ValueError, match="seed is -1"):
        load_problem(-1)
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        Refined(0)
    with pytest.raises(ValueError, match=r"first_tolerance is 1\.0"):
        Settings(first_tolerance=1.0)
    with pytest.raises(ValueError, match="decay is 0"):
        Settings(decay=0.0)
    with pytest.raises(ValueError, match=r"last_tolerance is -1\.0"):
        Settings(last_tolerance=-1.0)
    with pytest.raises(ValueError, match=r"opa\.every is 0"):
        fit(problem, 0.0, opa_every=0)


def test_float32_is_refused(problem):
    for run in (
        lambda: inversion_quality(1),
        lambda: hypergradient_errors(METHODS["shine"], 1, 1.0),
        lambda: optimise(problem, METHODS["shine"], Settings()),
    ):
        with pytest.raises(ValueError, match="float64 is off"):
            run()
