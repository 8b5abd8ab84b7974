"""The one-dimensional equilibrium model, and what holding its Jacobian down does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax import applications
from mdeq_jax.apps.regression import Config, cell, create_experiment, draw_pairs, fit
from mdeq_jax.training.config import override

SHORT = override(Config(), {"train.steps": 400, "train.eval_every": 400})


@pytest.fixture
def params():
    return create_experiment(Config()).init(jax.random.key(0))["params"]


@pytest.mark.slow
def test_steps_fall_as_the_jacobian_is_held_down(x64, tmp_path):
    runs = [fit(SHORT, gamma, tmp_path / str(gamma)) for gamma in (0.0, 0.5, 8.0)]
    steps, slopes, converged, errors = (
        [run[f"eval/{name}"] for run in runs]
        for name in ("solver_steps", "spectral_radius", "converged", "error")
    )
    assert steps[0] > steps[1] > steps[2]
    assert slopes[0] > slopes[1] > slopes[2]
    # In float64: float32 does not reach the relative tolerance where the curve crosses 0.
    assert converged == [1, 1, 1]
    # The noise of the pairs has variance 0.05; the curve's own is about 9.
    assert max(errors) < 0.3
    # A folder whose run is over is evaluated again, and no step is taken.
    again = fit(SHORT, 8.0, tmp_path / "8.0")
    assert again["resumed_from_step"] == 400
    assert again["eval/error"] == errors[2]


def test_about_two_hundred_parameters_and_the_curve(params):
    assert sum(x.size for x in params.values()) == 200
    pairs = draw_pairs(jax.random.key(1), 4000)
    x, y = (np.array([pair[name] for pair in pairs]) for name in ("x", "y"))
    assert abs(x).max() < 2
    noise = y - (1.5 * x**3 + x**2 - 5 * x + 2 * jnp.sin(x) - 3)
    np.testing.assert_allclose(noise.std(), 0.05**0.5, rtol=0.1)


def test_the_cell(params):
    z, x = jnp.array([[0.3]]), jnp.array([[1.2]])
    hidden = np.maximum(0.3 * params["w1"][0] + 1.2 * params["u"][0] + params["b"], 0)
    np.testing.assert_allclose(cell(z, (params, x))[0, 0], hidden @ params["w2"][:, 0], rtol=1e-5)


def test_the_error_is_that_of_pairs_that_are_not_padding():
    experiment = create_experiment(Config())
    batch = {"y": jnp.zeros((3, 1)), "mask": jnp.array([True, True, False])}
    sums = experiment.sums(jnp.array([[1.0], [3.0], [jnp.nan]]), batch)
    assert experiment.summarize({**sums, "count": 2.0}) == {"error": 5.0}
    assert experiment.score.improves(5.0, 6.0)


def test_it_is_an_application():
    config = applications.finalize({"app": "regression", "model": {"width": 7}})
    experiment = applications.create_experiment(config)
    assert experiment.init(jax.random.key(0))["params"]["b"].shape == (7,)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("jacobian.weight", -1.0),
        ("model.width", 0),
        ("data.train_pairs", 0),
        ("train.steps", 0),
        ("dtype", "bfloat16"),
    ],
)
def test_bad_options(key, value):
    with pytest.raises(ValueError, match=rf"{key} is {value!r}"):
        override(Config(), {key: value})


def test_a_negative_gamma(tmp_path):
    with pytest.raises(ValueError, match=r"config.jacobian.weight is -1.0"):
        fit(SHORT, -1.0, tmp_path)
