"""The explicit models: the ODE solved as it says, and both trained as any other experiment."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bases import load, tiny

from mdeq_jax import applications
from mdeq_jax.comparison.baselines import ConvBlock, ExplicitModel, ModelConfig, runge_kutta
from mdeq_jax.comparison.experiment import Config, create_experiment
from mdeq_jax.layers.modules import Conv
from mdeq_jax.training.loop import train


def make_images(batch=2):
    return np.random.default_rng(0).normal(size=(batch, 4, 4, 3)).astype(np.float32)


def create(kind, depth):
    """A model and its variables; the number of Runge-Kutta steps changes no parameter."""
    model = ExplicitModel(ModelConfig(kind, width=4, depth=depth, num_classes=3))
    return model, jax.jit(model.init)(jax.random.key(1), make_images())


def test_exponential_decay_is_followed_to_the_fourth_order():
    errors = [abs(float(runge_kutta(jnp.negative, jnp.ones(()), n)) - np.exp(-1)) for n in (1, 2)]
    # One step of size h is the Taylor polynomial of exp(-h) of degree 4.
    assert errors[0] == pytest.approx(abs(1 - 1 + 1 / 2 - 1 / 6 + 1 / 24 - np.exp(-1)), rel=1e-3)
    assert 12 < errors[0] / errors[1] < 32


@pytest.mark.slow
def test_the_neural_ode_follows_its_vector_field():
    (model, variables), images = create("neural_ode", 4), make_images()
    params = variables["params"]

    def by_euler(steps):
        def step(z, _):
            return z + ConvBlock().apply({"params": params["block"]}, z) / steps, None

        z = Conv(4).apply({"params": params["stem"]}, images)
        return jax.jit(lambda z: jax.lax.scan(step, z, length=steps)[0])(z)

    def field(z):
        return ConvBlock().apply({"params": params["block"]}, z)

    z = Conv(4).apply({"params": params["stem"]}, images)
    found = jax.jit(lambda z: runge_kutta(field, z, 4))(z)
    fine, coarse = by_euler(400), by_euler(1)
    np.testing.assert_allclose(found, fine, atol=0.02)
    assert jnp.abs(coarse - fine).max() > 0.1
    # The model ends in a head on that state: twice the steps change the logits little.
    finer, _ = create("neural_ode", 8)
    logits = [jax.jit(m.apply)(variables, images) for m in (model, finer)]
    np.testing.assert_allclose(*logits, atol=1e-3)


def test_a_block_of_zeros_leaves_the_state():
    (resnet, variables), images = create("resnet", 2), make_images()
    params = variables["params"]
    blocks = {name: jax.tree.map(jnp.zeros_like, params[name]) for name in ("block0", "block1")}
    stem_only = ExplicitModel(ModelConfig("neural_ode", width=4, depth=1, num_classes=3))
    rest = {
        "block": blocks["block0"],
        **{name: params[name] for name in params if name[:5] != "block"},
    }
    np.testing.assert_allclose(
        resnet.apply({"params": params | blocks}, images),
        stem_only.apply({"params": rest}, images),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 3}, "width is 3; it must be a multiple of 2"), ({"depth": 0}, "depth is 0")],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


def test_the_config_file_is_as_large_as_the_digits_model():
    config = load("digits_resnet")
    experiment = applications.create_experiment(config)
    params = jax.eval_shape(experiment.init, jax.random.key(0))["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == pytest.approx(158_890, rel=0.1)
    assert (config.data, config.optim) == (load("digits").data, load("digits").optim)


@pytest.mark.parametrize("kind", ["resnet", pytest.param("neural_ode", marks=pytest.mark.slow)])
def test_a_baseline_goes_through_the_training_loop(tmp_path, kind):
    base = tiny(tmp_path)
    model = {"kind": kind, "width": 4, "depth": 1}
    train_options = {"steps": 2, "log_every": 1}
    config = applications.finalize(
        {
            "app": "baseline",
            "model": model,
            "train": train_options,
            "data": {"batch_size": 8, "dir": base.data.dir},
        }
    )
    metrics = train(applications.create_experiment(config), tmp_path / "run").metrics
    assert metrics["eval/examples"] == 360
    assert metrics["eval/block_evaluations"] == (1 if kind == "resnet" else 4)
    assert 1 < metrics["eval/loss"] < 5
    record, *_ = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert record["train/loss"] > 0
    assert "train/solver_steps" not in record
    trained = applications.load_trained(tmp_path / "run", expected=config)
    assert trained.config == config


def test_weights_of_other_models_are_refused(tmp_path):
    experiment = create_experiment(Config(init_from="runs/digits"))
    with pytest.raises(ValueError, match="init_from is 'runs/digits'"):
        experiment.load_weights({}, "runs/digits")
