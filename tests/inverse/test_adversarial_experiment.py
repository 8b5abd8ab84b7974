"""Adversarial training as an experiment: the perturbation that is found, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import take_steps

from mdeq_jax.implicit import DEQ, Exact
from mdeq_jax.inverse.adversarial.attacks import hard_margin, highest_margin, soft_margin
from mdeq_jax.inverse.adversarial.config import AttackConfig
from mdeq_jax.inverse.adversarial.experiment import Config, create_experiment
from mdeq_jax.solvers import Anderson
from mdeq_jax.training.config import override
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.experiment import Layer
from mdeq_jax.training.loop import train
from mdeq_jax.training.sections import from_mapping

TINY = override(
    Config(),
    {
        "model.width": 4,
        "model.groups": 2,
        "data.batch_size": 16,
        "data.eval_batch_size": 360,
        "solver.forward.max_steps": 6,
        "solver.backward.max_steps": 4,
        "attack.pgd_steps": 2,
        "evaluation.restarts": 1,
        "evaluation.steps": 2,
        "train.steps": 2,
    },
)
BALLS = {"l2": 0.5, "linf": 0.1}


def in_ball(norm, **changes):
    ball = {"attack.norm": norm, "attack.epsilon": BALLS[norm], "optimise.x_step": 1.0}
    return create_experiment(override(TINY, {**ball, **changes}))


def some_images(experiment, count):
    examples = experiment._examples["train"][:count]
    return {name: jnp.stack([e[name] for e in examples]) for name in ("image", "label")}


def exact(max_steps, tol):
    solver = Anderson(max_steps=max_steps, tol=tol)
    return Layer(DEQ(solver, Exact(solver)))


@pytest.mark.slow
@pytest.mark.parametrize("norm", BALLS)
def test_the_perturbation_is_in_its_ball_and_as_strong_as_ascent_makes_it(norm):
    experiment = in_ball(norm)
    variables, batch = experiment.init(jax.random.key(1)), some_images(experiment, 8)

    @jax.jit
    def both(variables, batch):
        delta = experiment.attack(variables, batch, exact(60, 1e-4)).x
        gradient = experiment.margin_gradient(variables, batch, exact(60, 1e-5), soft_margin)
        clean, _ = gradient(jnp.zeros_like(delta))
        ball, start = experiment.ball, jnp.zeros_like(delta)
        highest = highest_margin(gradient, ball, start, steps=60, size=ball.epsilon)
        return delta, gradient(delta)[0], highest, clean

    delta, margin, highest, clean = both(variables, batch)
    order = 2 if norm == "l2" else np.inf
    sizes = np.linalg.norm(delta.reshape(8, -1), order, axis=-1)
    np.testing.assert_allclose(sizes, BALLS[norm], rtol=1e-5)
    gained = (margin - clean) / (highest - clean)
    assert (highest > clean + 0.01).all()
    assert (gained > 0.98).all()


def loss_of(experiment, layer, batch):
    """The loss of training as a function of the variables."""

    def loss(variables):
        outputs = experiment.forward(variables, batch, layer, train=True).outputs
        return experiment.loss(variables, outputs, batch, None)[0]

    return loss


@pytest.mark.usefixtures("x64")
def test_the_envelope_gradient_is_that_of_the_whole_optimisation():
    experiment = in_ball("l2", **{"attack.method": "joint"})
    to_double = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float64))  # noqa: E731
    batch = some_images(experiment, 3)
    batch["image"] = to_double(batch["image"])
    variables = jax.tree.map(to_double, experiment.init(jax.random.key(1)))
    both = jax.jit(jax.value_and_grad(loss_of(experiment, exact(400, 1e-11), batch)))
    _, gradient = both(variables)
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    drawn = [jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    direction = structure.unflatten(drawn)
    moved = lambda t: jax.tree.map(lambda x, d: x + t * d, variables, direction)  # noqa: E731
    difference = (both(moved(1e-5))[0] - both(moved(-1e-5))[0]) / 2e-5
    products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), difference, rtol=1e-6)


def test_the_images_that_no_attack_changes_are_counted():
    experiment = create_experiment(TINY)
    logits = jnp.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    batch = {"label": jnp.zeros(4, int), "mask": jnp.array([True, True, True, False])}
    outputs = {"logits": logits, "highest_margin": jnp.array([-1.0, 0.5, 3.0, -1.0])}
    sums = {**experiment.sums(outputs, batch), "count": 3.0}
    expected = {"accuracy": 2 / 3, "accuracy_robust": 1 / 3}
    assert experiment.summarize(sums) == pytest.approx(expected)
    # A correct image whose margin reaches 0 is misclassified by the attack.
    np.testing.assert_array_equal(hard_margin(logits, batch["label"]) < 0, [1, 1, 0, 1])


@pytest.mark.parametrize("method", ["joint", "pgd"])
def test_a_training_step(method):
    _, metrics = take_steps(create_experiment(override(TINY, {"attack.method": method})), 1, 1)
    assert np.isfinite(metrics["loss"])
    assert metrics["grad_norm"] > 0
    # By the envelope theorem the joint gradient needs no adjoint solve.
    assert (metrics["adjoint_steps"] == 0) == (method == "joint")


@pytest.mark.slow
def test_a_run_ends_with_both_accuracies(tmp_path):
    metrics = train(create_experiment(override(TINY, {"attack.method": "none"})), tmp_path).metrics
    assert 0 <= metrics["eval/accuracy_robust"] <= metrics["eval/accuracy"] <= 1
    assert metrics["eval/examples"] == 360


@pytest.mark.parametrize("epsilon", [0.0, -0.1])
def test_a_ball_without_perturbations_is_an_error_of_the_config(epsilon):
    with pytest.raises(ValueError, match=r"config\.attack.*epsilon is .* above 0"):
        override(Config(), {"attack.epsilon": epsilon})
    with pytest.raises(ValueError, match="above 0"):
        AttackConfig(epsilon=epsilon)


def test_parameter_count():
    experiment = create_experiment(from_mapping(Config(), load_config("adversarial_digits")))
    params = jax.eval_shape(experiment.init, jax.random.key(0))["params"]
    # Convolutions 1→24 with bias, three of 24→24; three norms; a linear map of 4·4·24 entries.
    expected = 9 * 24 + 24 + 3 * 9 * 24 * 24 + 3 * 2 * 24 + (16 * 24 + 1) * 10
    assert sum(x.size for x in jax.tree.leaves(params)) == expected
