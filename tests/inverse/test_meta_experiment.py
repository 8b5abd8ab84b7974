"""Meta-learning as an experiment: adaptation, and the gradient through it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import take_steps

from mdeq_jax.implicit import DEQ, Exact
from mdeq_jax.inverse.meta.experiment import Config, create_experiment
from mdeq_jax.solvers import Broyden, Picard
from mdeq_jax.training.config import override
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.experiment import Layer
from mdeq_jax.training.loop import train
from mdeq_jax.training.sections import from_mapping

TINY = override(
    Config(),
    {
        "model.width": 4,
        "model.task_width": 2,
        "data.batch_size": 8,
        "data.eval_batch_size": 16,
        "data.train_tasks": 16,
        "data.eval_tasks": 20,
        "data.shots": 4,
        "data.queries": 3,
        "solver.forward.max_steps": 6,
        "solver.backward.max_steps": 4,
        "train.steps": 2,
    },
)
# Plain steps descend. Anderson's mixtures may end at another stationary point, or at none.
LAYER = Layer(DEQ(Picard(max_steps=4000, tol=1e-13), Exact(Broyden(max_steps=200, tol=1e-12))))


def doubles(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def setting(**changes):
    """An experiment, random variables and two tasks, in float64."""
    experiment = create_experiment(override(TINY, changes))
    batch = {name: x[:2] for name, x in next(experiment.train_batches()).items()}
    batch |= {name: batch[name] / 5 for name in ("support_y", "query_y")}
    return experiment, doubles(experiment.init(jax.random.key(0))), doubles(batch)


def gradient_and_difference(experiment, variables, batch):
    """The outer gradient along a random direction, and the central difference along it."""

    @jax.jit
    @jax.value_and_grad
    def loss(variables):
        passed = experiment.forward(variables, batch, LAYER, train=True)
        return experiment.loss(variables, passed.outputs, batch, None)[0]

    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    direction = structure.unflatten(drawn)
    moved = lambda t: jax.tree.map(lambda x, d: x + t * d, variables, direction)  # noqa: E731
    products = jax.tree.map(lambda g, d: (g * d).sum(), loss(variables)[1], direction)
    return sum(jax.tree.leaves(products)), (loss(moved(1e-5))[0] - loss(moved(-1e-5))[0]) / 2e-5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("second_order", [True, False])
def test_the_outer_gradient_is_exact_to_second_order(second_order):
    changes = {"loss.second_order": second_order, "loss.penalty": 0.1}
    found, difference = gradient_and_difference(*setting(**changes))
    if second_order:
        np.testing.assert_allclose(found, difference, rtol=1e-5)
    else:  # the term that is left out is there
        assert abs(found - difference) > 1e-2 * abs(difference)


@pytest.mark.usefixtures("x64")
def test_adaptation_lowers_the_error_of_the_support_points():
    experiment, variables, batch = setting(**{"loss.penalty": 0.1})

    @jax.jit
    def costs(variables):
        optimum = experiment.adapt(variables, batch, LAYER)
        support = {"query_x": batch["support_x"], "query_y": batch["support_y"]}
        prior = experiment.query(variables, support, experiment.prior(2), LAYER)
        adapted = experiment.query(variables, support, optimum.x, LAYER)
        penalty = experiment.config.loss.penalty * (optimum.x**2).mean(axis=-1)
        errors = [
            experiment.task.error(y, batch["support_y"]).mean(axis=-1) for y in (prior, adapted)
        ]
        return optimum.cost, errors[1] + penalty, errors[0]

    cost, adapted, prior = costs(variables)
    # The support points have the same equilibrium in a solve of their own.
    np.testing.assert_allclose(cost, adapted, rtol=1e-9)
    assert (adapted < 0.95 * prior).all()


def test_metrics_are_named_by_the_task():
    outputs = {"adapted": jnp.ones((3, 2, 1)), "prior": jnp.zeros((3, 2, 1))}
    batch = {"query_y": 3 * jnp.ones((3, 2, 1)), "mask": jnp.array([True, True, False])}
    experiment = create_experiment(TINY)
    sums = {**experiment.sums(outputs, batch), "count": 2.0}
    assert experiment.summarize(sums) == {"mse": 4, "mse_prior": 9}
    digits = create_experiment(override(TINY, {"data.task": "digits"}))
    right = jax.nn.one_hot(jnp.array([[0, 1]]), 5)
    outputs = {"adapted": right, "prior": right[:, ::-1]}
    sums = digits.sums(outputs, {"query_y": right, "mask": jnp.array([True])})
    assert digits.summarize({**sums, "count": 1.0}) == {"accuracy": 1, "accuracy_prior": 0}


@pytest.mark.slow
def test_a_training_step_of_digits():
    _, metrics = take_steps(create_experiment(override(TINY, {"data.task": "digits"})), 1, 1)
    assert np.isfinite(metrics["loss"])
    assert metrics["grad_norm"] > 0
    assert metrics["adjoint_steps"] > 0


@pytest.mark.slow
def test_a_run_ends_with_the_error_before_and_after_adaptation(tmp_path):
    metrics = train(create_experiment(TINY), tmp_path).metrics
    assert {"eval/mse", "eval/mse_prior", "eval/solver_steps"} <= metrics.keys()
    assert metrics["eval/examples"] == 20


def test_parameter_count():
    experiment = create_experiment(from_mapping(Config(), load_config("meta_sinusoid")))
    params = jax.eval_shape(experiment.init, jax.random.key(0))["params"]
    width, task_width = experiment.config.model.width, experiment.config.model.task_width
    maps = (1 + 1) * width + (width + 1) * width + width**2 + (width + 1)
    assert sum(x.size for x in jax.tree.leaves(params)) == maps + 3 * task_width * width
