"""Generators with optimised and encoded latent codes: training, evaluation, inverse problems."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generators import ENCODED, SMALL, small
from running import each_step, mesh_of, take_steps

from mdeq_jax.implicit import DEQ
from mdeq_jax.inverse.config import OptimiseConfig
from mdeq_jax.inverse.generation.experiment import create_experiment
from mdeq_jax.inverse.generation.metrics import mean_squared_errors, psnr
from mdeq_jax.inverse.generation.observations import Observation, observe
from mdeq_jax.inverse.generation.prior import Prior, fitted_prior, isotropic_prior
from mdeq_jax.solvers import Anderson
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.mesh import replicate

TASKS = {"denoise": "noisy", "denoise_0.2": "noisy_0.2", "inpaint": "masked"}
EIGHT = jnp.asarray(np.random.default_rng(0).random((8, 8, 8, 1), "f"))


def evaluate(config):
    experiment, mesh = create_experiment(config), mesh_of(1)
    variables = replicate(jax.jit(experiment.init)(jax.random.key(0)), mesh)
    evaluator = Evaluator(experiment, mesh)
    return experiment, [evaluator(variables, unrolled=None) for _ in range(2)]


def test_the_evaluation():
    """The encoder's codes are compared with optimised ones."""
    experiment, (metrics, again) = evaluate(ENCODED)
    assert metrics == again  # the corruptions are the same
    assert metrics["eval/examples"] == 360
    names = ["", "_optimised", *(f"_{name}" for name in TASKS)]
    assert all(0 < metrics[f"eval/solver_steps{name}"] <= 5 for name in names)
    assert all(np.isfinite(metrics[f"eval/psnr{name}"]) for name in names)
    batches = list(experiment.test_batches())
    images, noise, visible = (
        np.concatenate([batch[name] for batch in batches]) for name in ("image", "noise", "visible")
    )
    errors = {
        "noisy": np.square(0.4 * noise).mean(),
        "noisy_0.2": np.square(0.2 * noise).mean(),
        "masked": np.square(images * (1 - visible)).mean(),
    }
    for name, error in errors.items():
        np.testing.assert_allclose(metrics[f"eval/psnr_{name}"], -10 * np.log10(error), rtol=1e-4)


@pytest.mark.parametrize(
    "config", [pytest.param(SMALL, marks=pytest.mark.slow), ENCODED], ids=["optimised", "encoded"]
)
def test_training_lowers_the_loss_and_keeps_running_means(config):
    experiment = create_experiment(override(config, {"data.batch_size": 64}))
    steps = each_step(experiment, 1)
    state, before = next(steps)
    # One hundredth of the way from the initial values, 0 and the identity, to the first batch's.
    statistics = jax.device_get(state.collections["statistics"])
    error = 0.01 * 10 ** (-before["psnr"] / 10)
    np.testing.assert_allclose(statistics["error"], error, rtol=1e-4)
    moment = 100 * (statistics["covariance"] - 0.99 * np.eye(len(statistics["mean"])))
    mean = 100 * statistics["mean"]
    assert np.linalg.norm(mean) > 0
    assert np.linalg.eigvalsh(moment - np.outer(mean, mean)).min() > -1e-4
    *_, (_, after) = itertools.islice(steps, 11)
    assert after["loss"] < 0.9 * before["loss"]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_devices():
    changes = {"optim.name": "sgd", "optim.learning_rate": 0.1}
    experiment = create_experiment(override(SMALL, changes))
    one, two = (take_steps(experiment, devices, 2)[0].params for devices in (1, 2))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, *jax.device_get((one, two)))


def test_an_image_among_its_copies_and_among_others():
    experiment, variables = small()

    @jax.jit
    def restore(pixels):
        seen = observe(pixels, experiment.prior)
        return experiment.inversion.restore(variables, seen, DEQ(Anderson(max_steps=5))).x

    among_others, among_copies = restore(EIGHT), restore(jnp.repeat(EIGHT[3:4], 8, axis=0))
    np.testing.assert_allclose(among_others[3], among_copies[3], rtol=0, atol=1e-4)


def test_hidden_pixels_and_the_prior():
    """Hidden pixels do not matter, and the cost of the prior is added."""
    experiment, variables = small()
    inversion = experiment.inversion
    visible = jnp.ones_like(EIGHT[..., :1]).at[:, 2:5].set(0)
    other = jnp.where(visible > 0, EIGHT, 9.0)
    x = jax.random.normal(jax.random.key(1), (8, 4))
    f, z0, args = inversion.problem(variables, x)
    z, params = f(z0, args), args[0]
    mean = jnp.arange(4.0)
    prior = Prior(mean, jnp.diag(mean))
    costs = [
        inversion.cost(z, x, (params, seen))
        for seen in (
            Observation(EIGHT, visible, prior),
            Observation(other, visible, prior),
            observe(EIGHT, prior),
        )
    ]
    np.testing.assert_array_equal(costs[0], costs[1])
    error = mean_squared_errors(inversion.image(variables, z), EIGHT) * 64
    np.testing.assert_allclose(costs[2], error + jnp.square(x - mean) @ mean, rtol=1e-5)


def test_the_fitted_prior_of_codes():
    """It is w Σ⁻¹ where Σ is large, and bounded where it is 0."""
    np.testing.assert_array_equal(isotropic_prior(0.5, 2).cost(jnp.asarray([[3.0, 4.0]])), [12.5])
    statistics = {
        "mean": jnp.ones(2),
        "covariance": jnp.diag(jnp.asarray([100.0, 0.0])),
        "error": jnp.asarray(0.01),
    }
    prior = fitted_prior(statistics, 0.3, x_step=0.2)
    np.testing.assert_array_equal(prior.mean, statistics["mean"])
    np.testing.assert_allclose(prior.precision, np.diag([0.1 / (100 + 0.02), 5]), rtol=1e-5)


def test_psnr():
    np.testing.assert_allclose(psnr(jnp.asarray([1.0, 0.01])), [0, 20], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation.box": (9, 2)}, r"box is 9×2, but the images are 8×8"),
        ({"evaluation.noise": ()}, r"noise is \(\).*distinct numbers above 0"),
        ({"evaluation.noise": (-0.1,)}, r"noise is \(-0\.1,\).*above 0"),
        ({"loss.prior": -1.0}, r"prior is -1\.0.*at least 0"),
        ({"optimise.x_step": 0.0}, r"x_step is 0\.0.*above 0"),
        ({"optimise.z_step": 1.5}, r"z_step is 1\.5"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        create_experiment(override(SMALL, changes))


def test_step_sizes():
    steps = OptimiseConfig(0.5, 0.4, 2.0).steps()
    assert (steps.z, steps.mu, steps.x) == (0.5, 0.4, 2.0)
