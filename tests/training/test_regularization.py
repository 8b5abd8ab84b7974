"""Jacobian regularisation in the training step: schedule, draws, and that it works."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_steps import CONFIG, make_batch, setup

from mdeq_jax.implicit import Solution
from mdeq_jax.implicit.unrolled import unroll
from mdeq_jax.stability import jacobian_loss
from mdeq_jax.training.config import RunConfig, override
from mdeq_jax.training.jacobian import (
    draw_regularization,
    forward_solver,
    jacobian_term,
    solved_weight,
)
from mdeq_jax.training.mesh import shard
from mdeq_jax.training.steps import draw_step
from mdeq_jax.vision.config import finalize


def with_jacobian(**options):
    nested = dataclasses.asdict(CONFIG)
    train = {"pretrain_steps": 100}
    return finalize({**nested, "train": train, "jacobian": options})


def test_weight_grows_and_ends():
    config = with_jacobian(weight=0.4, increment_steps=50, stop_epoch=8)
    weights = [solved_weight(config, jnp.asarray(s), 30) for s in (100, 149, 150, 239, 240)]
    np.testing.assert_allclose(weights, [0.4, 0.4, 0.5, 0.6, 0.0], rtol=1e-6)


def test_weight_without_increment_or_end():
    config = with_jacobian(weight=0.4)
    np.testing.assert_allclose(solved_weight(config, jnp.asarray(10**6), 30), 0.4)


def many_draws(config, *, unrolled=False):
    keys = jax.random.split(jax.random.key(0), 2000)

    def one(key):
        return draw_regularization(
            config,
            key,
            jnp.asarray(100),
            limit=config.solver.forward.max_steps,
            unrolled=unrolled,
            steps_per_epoch=30,
        )

    return jax.device_get(jax.vmap(one)(keys))


def test_every_step_may_have_a_depth_of_its_own():
    config = override(RunConfig(), {"solver.forward.max_steps": 8, "train.fewest_solver_steps": 5})

    def limits(config):
        options = {"unrolled": False, "steps_per_epoch": 30}
        draw = lambda key: draw_step(config, key, jnp.asarray(100), **options).step_limit  # noqa: E731
        return np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000)))

    values, counts = np.unique(limits(config), return_counts=True)
    np.testing.assert_array_equal(values, [5, 6, 7, 8])
    assert counts.min() > 400
    # The jitter of the Jacobian's steps, −2 to 1, shifts the drawn limit.
    jacobian = {"jacobian.probability": 1.0, "jacobian.weight": 1.0}
    assert {*limits(override(config, jacobian)).tolist()} == {*range(3, 10)}


def test_draws_have_their_probability_and_range():
    gammas, limits = many_draws(with_jacobian(probability=0.25, weight=0.4))
    chosen = gammas > 0
    assert 0.2 < chosen.mean() < 0.3
    np.testing.assert_allclose(gammas[chosen], 0.4)
    np.testing.assert_array_equal(limits[~chosen], 40)
    values, counts = np.unique(limits[chosen], return_counts=True)
    np.testing.assert_array_equal(values, [38, 39, 40, 41])
    assert counts.min() > 0.15 * chosen.sum()


def test_unrolled_steps_have_their_own_weight():
    options = {"probability": 1.0, "weight": 0.4, "pretrain_weight": 0.03}
    np.testing.assert_allclose(many_draws(with_jacobian(**options), unrolled=True)[0], 0.03)
    np.testing.assert_allclose(many_draws(with_jacobian(**options, step_jitter=0))[1], 40)


def test_the_solver_has_room_for_the_jitter():
    assert forward_solver(CONFIG).max_steps == 40
    assert forward_solver(with_jacobian(probability=0.1, weight=1.0)).max_steps == 41
    without = with_jacobian(probability=0.1, weight=1.0, step_jitter=0)
    assert forward_solver(without).max_steps == 40


@pytest.mark.slow
@pytest.mark.parametrize("unrolled", [None, 2])
def test_training_lowers_the_jacobian(unrolled):
    options = {"probability": 1.0, "weight": 3.0, "pretrain_weight": 3.0}
    step, state, mesh = setup(with_jacobian(**options), devices=2, unrolled=unrolled)
    batch, terms = shard(make_batch(8), mesh), []
    for _ in range(12):
        state, metrics = step(state, batch)
        terms.append(float(metrics["jacobian_term"]))
    assert 0 < np.mean(terms[-3:]) < 0.8 * np.mean(terms[:3])


def test_the_term_is_the_weighted_loss_or_nothing():
    f, z, key = (lambda z, a: jnp.tanh(a * z)), jnp.ones((2, 3)), jax.random.key(0)
    solution = Solution(z, unroll(f, z, 0.5, 0), (), 0.5, f)
    value = jacobian_loss(f, z, 0.5, key)
    np.testing.assert_allclose(jacobian_term(jnp.asarray(2.0), solution, key), 2 * value)
    assert jacobian_term(jnp.asarray(0.0), solution, key) == 0
