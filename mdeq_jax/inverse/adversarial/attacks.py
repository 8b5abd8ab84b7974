"""Perturbations in a ball: projections, random starts, and projected gradient ascent.

A perturbation is bounded by the ball alone: image + δ may leave the range of pixels. The projection
is then exact and the same for every image, and the bound is never looser than with clipping.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from mdeq_jax.solvers.norms import norm, quotient, scale, select

Perturbation = Float[Array, "B ..."]
# δ -> the margin of each sample, and its gradient with respect to δ.
MarginGradient = Callable[[Perturbation], tuple[Float[Array, " B"], Perturbation]]


@dataclasses.dataclass(frozen=True)
class Ball:
    """The perturbations δ with ‖δ‖ ≤ ε.

    Attributes:
      norm: "l2", the Euclidean norm, or "linf", the largest entry.
      epsilon: ε, above 0.
    """

    norm: Literal["l2", "linf"]
    epsilon: float

    def project(self, delta: Perturbation) -> Perturbation:
        """Return the nearest perturbation of the ball, each sample by itself."""
        if self.norm == "linf":
            return jnp.clip(delta, -self.epsilon, self.epsilon)
        return scale(self.epsilon / jnp.maximum(norm(delta), self.epsilon), delta)

    def direction(self, gradient: Perturbation) -> Perturbation:
        """Return the steepest ascent in the ball's norm: g / ‖g‖₂, or sign g for "linf"."""
        if self.norm == "linf":
            return jnp.sign(gradient)
        size = norm(gradient)
        return scale(quotient(jnp.ones_like(size), size), gradient)

    def ascend(
        self, delta: Perturbation, gradient: Perturbation, size: Float[Array, " B"]
    ) -> Perturbation:
        """Return P(δ + size · direction(gradient)).

        Args:
          delta: the perturbation δ.
          gradient: the gradient at δ.
          size: length of the step of each sample, in the ball's norm.
        """
        return self.project(delta + scale(size, self.direction(gradient)))

    def draw(self, keys: Key[Array, " B"], like: Perturbation) -> Perturbation:
        """Return random perturbations: uniform for "linf", on the sphere for "l2".

        Args:
          keys: one key for each sample.
          like: an array of the shape and dtype of the perturbations.
        """
        if self.norm == "linf":
            draw = lambda key: jax.random.uniform(key, like.shape[1:], like.dtype, -1, 1)  # noqa: E731
        else:
            draw = lambda key: jax.random.normal(key, like.shape[1:], like.dtype)  # noqa: E731
        drawn = jax.vmap(draw)(keys)
        return self.epsilon * (drawn if self.norm == "linf" else self.direction(drawn))


def soft_margin(logits: Float[Array, "B classes"], labels: Int[Array, " B"]) -> Float[Array, " B"]:
    """Return m = log Σ_{j≠y} exp(l_j) − l_y, whose softplus is the cross-entropy.

    Both have the same maximum over a perturbation, but the gradient of m does not vanish where the
    classifier is sure. That is what normalised gradient steps are for, without a division by a norm
    that may be 0.
    """
    own, others = _split(logits, labels)
    return jax.nn.logsumexp(others, axis=-1) - own


def hard_margin(logits: Float[Array, "B classes"], labels: Int[Array, " B"]) -> Float[Array, " B"]:
    """Return max_{j≠y} l_j − l_y, which is above 0 where the sample is misclassified.

    Source: the loss of Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks",
    IEEE S&P 2017.
    """
    own, others = _split(logits, labels)
    return others.max(axis=-1) - own


def _split(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return the logit of the label, and the logits with −∞ in its place."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return own, jnp.where(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), -jnp.inf, logits)


def pgd(
    margin_gradient: MarginGradient, ball: Ball, start: Perturbation, steps: int, size: float
) -> Perturbation:
    """Return the perturbation after some steps of projected gradient ascent.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
    2018.

    Args:
      margin_gradient: δ -> the margin of each sample and its gradient.
      ball: the perturbations that are allowed.
      start: where the ascent starts.
      steps: number of steps, each with one gradient, at least 1.
      size: length of each step, in the ball's norm.
    """

    def step(delta: Perturbation, _: None) -> tuple[Perturbation, None]:
        margin, gradient = margin_gradient(delta)
        return ball.ascend(delta, gradient, jnp.full_like(margin, size)), None

    return lax.scan(step, start, length=steps)[0]


def highest_margin(
    margin_gradient: MarginGradient, ball: Ball, start: Perturbation, steps: int, size: float
) -> Float[Array, " B"]:
    """Return the highest margin that projected gradient ascent with step halving meets.

    Each step starts from the best perturbation so far. A step that does not raise the margin of a
    sample halves its step size, in the way of Croce and Hein, "Reliable Evaluation of Adversarial
    Robustness with an Ensemble of Diverse Parameter-free Attacks", ICML 2020.

    Args:
      margin_gradient: δ -> the margin of each sample and its gradient.
      ball: the perturbations that are allowed.
      start: where the ascent starts.
      steps: number of steps, each with one gradient, at least 1.
      size: length of the first step, in the ball's norm.
    """

    def step(carry: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
        best, size = carry[:3], carry[3]
        delta = ball.ascend(best[0], best[2], size)
        found = delta, *margin_gradient(delta)
        better = found[1] > best[1]
        return (*select(better, found, best), jnp.where(better, size, size / 2)), None

    margin, gradient = margin_gradient(start)
    first = start, margin, gradient, size * jnp.ones_like(margin)
    return lax.scan(step, first, length=steps)[0][1]
