"""Training of the explicit models: the data, optimizer, schedule and steps of a config."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from mdeq_jax.comparison.baselines import create_baseline
from mdeq_jax.comparison.measure import Measurement, cost_of, evaluate, training_batch
from mdeq_jax.comparison.sizes import count_parameters
from mdeq_jax.training.metrics import MetricBuffer
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.vision import data
from mdeq_jax.vision.config import Config
from mdeq_jax.vision.losses import cross_entropy

Batch = dict[str, Array]
Objective = Callable[[PyTree, Batch], tuple[Float[Array, ""], Array]]


def train_baseline(kind: str, config: Config) -> Measurement:
    """Train a baseline, evaluate and measure it.

    Args:
      kind: "resnet" or "neural_ode".
      config: whose model it is as large as, and which it is trained by.

    Raises:
      NonFiniteError: a loss or gradient was not finite.
      ModuleNotFoundError: the neural ODE needs diffrax, which is not installed.
    """
    model = create_baseline(kind, config)
    objective = _objective(model)
    params = _train(model, objective, config)
    predict = functools.partial(jax.jit(model.apply), {"params": params})
    cost, _ = cost_of(objective, params, training_batch(config))
    return dataclasses.replace(
        evaluate(predict, config.data),
        cost=cost,
        parameters=count_parameters(model, config.data.image_size),
    )


def _objective(model: nn.Module) -> Objective:
    def objective(params: PyTree, batch: Batch) -> tuple[Array, Array]:
        output: Any = model.apply({"params": params}, batch["image"])
        logits, steps = output
        return cross_entropy(logits, batch["label"]).mean(), steps.mean()

    return objective


def _train(model: nn.Module, objective: Objective, config: Config) -> PyTree:
    """Return the parameters after the config's steps."""
    info = data.dataset_info(config.data)
    per_epoch = info.train_examples // config.data.batch_size
    steps_per_epoch = config.train.steps_per_epoch(per_epoch)
    total = config.train.total_steps(steps_per_epoch)
    whole = config.train.total_steps(per_epoch)
    optimizer = create_optimizer(config.optim, whole, steps_per_epoch)
    start = jnp.zeros((1, *info.image_shape))
    params = jax.jit(model.init)(jax.random.key(config.seed), start)["params"]
    opt_state = optimizer.init(params)

    normalise = data.find_dataset(config.data).normalise

    @jax.jit
    def step(params: PyTree, opt_state: PyTree, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        batch = {**batch, "image": normalise(batch["image"])}
        (loss, steps), grads = jax.value_and_grad(objective, has_aux=True)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        metrics = {"loss": loss, "steps": steps, "grad_norm": optax.tree.norm(grads)}
        return optax.apply_updates(params, updates), opt_state, metrics

    buffer = MetricBuffer()
    batches = data.train_iterator(config.data, seed=config.seed)
    for number in range(1, total + 1):
        params, opt_state, metrics = step(params, opt_state, next(batches))
        buffer.add(number, metrics)
        if number % config.train.log_every == 0:
            mean = buffer.mean()
            line = f"step {number}/{total}  loss {mean['loss']:.4f}  steps {mean['steps']:.1f}"
            print(line, file=sys.stderr, flush=True)
    buffer.check()
    return params
