"""Balls of perturbations, margins, and ascent on margins whose maximum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdeq_jax.inverse.adversarial.attacks import (
    Ball,
    hard_margin,
    highest_margin,
    pgd,
    soft_margin,
)

BALLS = [Ball("l2", 0.5), Ball("linf", 0.1)]
SLOPE = jnp.array([[3.0, -4.0, 0.5], [0.1, 0.2, -0.3]])


def size(ball, delta):
    return np.linalg.norm(delta, 2 if ball.norm == "l2" else np.inf, axis=-1)


def linear(delta):
    """The margin ⟨slope, δ⟩, with its gradient."""
    return (SLOPE * delta).sum(axis=-1), SLOPE


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_projection_keeps_the_inside_and_moves_the_rest_to_the_nearest_point(ball):
    delta = jax.random.normal(jax.random.key(0), (5, 7))
    inside = ball.epsilon * 0.9 * delta / size(ball, delta)[:, None]
    np.testing.assert_allclose(ball.project(inside), inside, rtol=1e-6)
    near = ball.project(delta)
    np.testing.assert_allclose(size(ball, near), ball.epsilon, rtol=1e-6)
    # The nearest point of a convex set: δ − P(δ) has no positive product with any point − P(δ).
    others = ball.draw(jax.random.split(jax.random.key(1), 5), delta)
    assert (((delta - near) * (others - near)).sum(axis=-1) <= 1e-6).all()


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_random_starts_differ_and_are_in_the_ball(ball):
    drawn = ball.draw(jax.random.split(jax.random.key(0), 6), jnp.zeros((6, 7)))
    assert (size(ball, drawn) <= ball.epsilon * (1 + 1e-6)).all()
    assert len(np.unique(drawn[:, 0])) == 6


def test_the_softplus_of_the_soft_margin_is_the_cross_entropy():
    logits = 5 * jax.random.normal(jax.random.key(0), (8, 10))
    labels = jnp.arange(8)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(jax.nn.softplus(soft_margin(logits, labels)), entropy, rtol=1e-5)
    wrong = logits.argmax(axis=-1) != labels
    np.testing.assert_array_equal(hard_margin(logits, labels) > 0, wrong)
    assert wrong.any()


def test_the_gradient_of_the_margin_does_not_vanish_where_the_classifier_is_sure():
    logits, labels = jnp.array([[60.0, 0.0, 1.0]]), jnp.array([0])
    entropy = lambda x: optax.softmax_cross_entropy_with_integer_labels(x, labels).sum()  # noqa: E731
    assert jnp.linalg.norm(jax.grad(entropy)(logits)) < 1e-20
    assert jnp.linalg.norm(jax.grad(lambda x: soft_margin(x, labels).sum())(logits)) > 1


@pytest.mark.parametrize(("ball", "dual"), [(BALLS[0], 2), (BALLS[1], 1)], ids=["l2", "linf"])
def test_the_highest_linear_margin_is_epsilon_times_the_dual_norm(ball, dual):
    best = ball.epsilon * np.linalg.norm(SLOPE, dual, axis=-1)
    delta = pgd(linear, ball, jnp.zeros_like(SLOPE), steps=3, size=0.5 * ball.epsilon)
    np.testing.assert_allclose(linear(delta)[0], best, rtol=1e-6)
    start = ball.draw(jax.random.split(jax.random.key(0), 2), SLOPE)
    found = highest_margin(linear, ball, start, steps=30, size=ball.epsilon)
    np.testing.assert_allclose(found, best, rtol=1e-3)


def test_step_halving_finds_a_maximum_inside_the_ball():
    ball, peak = Ball("l2", 0.5), jnp.array([[0.1, 0.2, 0.0]])
    quadratic = lambda delta: (-((delta - peak) ** 2).sum(axis=-1), -2 * (delta - peak))  # noqa: E731
    start = jnp.array([[-0.3, 0.3, 0.2]])
    found = highest_margin(quadratic, ball, start, steps=40, size=0.5)
    assert -found < 1e-4
    # Steps of one length stay away from it by about that length.
    delta = pgd(quadratic, ball, start, steps=40, size=0.2)
    assert jnp.linalg.norm(delta - peak) > 0.05
