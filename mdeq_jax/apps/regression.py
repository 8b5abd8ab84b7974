"""A one-layer equilibrium model of one number fits a curve; its Jacobian is held down.

    python -m mdeq_jax.apps.regression

    z* = W₂ᵀ relu(W₁ z* + U x + b),  ŷ = z*,  loss (ŷ − y)² + γ ‖∂f/∂z‖²

With a state of one number the Jacobian is a slope, and the fixed point the intersection of f with
the diagonal: the flatter f is there, the fewer steps find it. Source: Bai, Koltun, Kolter,
"Stabilizing Equilibrium Models by Jacobian Regularization", ICML 2021, section 4.1: width 50, some
200 parameters, 4,096 pairs to train on and 1,000 to validate.
"""

import argparse
import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mdeq_jax.implicit import equilibrium
from mdeq_jax.solvers import Anderson, Picard, solve
from mdeq_jax.stability import jacobian_loss, spectral_radius

WIDTH, TRAIN, VALIDATION = 50, 4096, 1000
# The steps that are counted are plain applications of f: what contraction alone takes.
COUNTING = Picard(max_steps=200, tol=1e-4)
TRAINING = Anderson(max_steps=30, tol=1e-4)


class Layer(NamedTuple):
    """Parameters of the layer.

    Attributes:
      w1: weights of the state.
      w2: weights of the hidden units.
      u: weights of the input.
      b: biases.
    """

    w1: Float[Array, "1 width"]
    w2: Float[Array, "width 1"]
    u: Float[Array, "1 width"]
    b: Float[Array, " width"]


class Outcome(NamedTuple):
    """What a fit came to, on the validation pairs.

    Attributes:
      gamma: weight of the Jacobian's term.
      error: mean squared error.
      steps: mean number of plain steps to the fixed point.
      converged: share of inputs whose fixed point they reach.
      slope: mean |∂f/∂z| there.
    """

    gamma: float
    error: float
    steps: float
    converged: float
    slope: float


def layer(z: Float[Array, "B 1"], args: tuple[Layer, Float[Array, "B 1"]]) -> Float[Array, "B 1"]:
    """Return f(z)."""
    params, x = args
    return jax.nn.relu(z @ params.w1 + x @ params.u + params.b) @ params.w2


def draw_pairs(key: Array, count: int) -> tuple[Float[Array, "B 1"], Float[Array, "B 1"]]:
    """Return x, uniform in (−2, 2), and y = 3x³/2 + x² − 5x + 2 sin x − 3 + N(0, 0.05)."""
    place, noise = jax.random.split(key)
    x = jax.random.uniform(place, (count, 1), minval=-2.0, maxval=2.0)
    y = 1.5 * x**3 + x**2 - 5 * x + 2 * jnp.sin(x) - 3
    return x, y + 0.05**0.5 * jax.random.normal(noise, x.shape)


def init_layer(key: Array) -> Layer:
    """Return random parameters."""
    w1, w2, u, b = jax.random.split(key, 4)
    return Layer(
        w1=0.3 * jax.random.normal(w1, (1, WIDTH)),
        w2=WIDTH**-0.5 * jax.random.normal(w2, (WIDTH, 1)),
        u=jax.random.normal(u, (1, WIDTH)),
        b=jax.random.normal(b, (WIDTH,)),
    )


def fit(gamma: float, *, seed: int = 0, steps: int = 3000, batch: int = 256) -> Outcome:
    """Train under a weight of the Jacobian's term, and validate.

    Args:
      gamma: γ, at least 0.
      seed: of the pairs, the parameters and the batches.
      steps: of Adam, learning rate 0.01 falling to 0 as a cosine, at least 1.
      batch: pairs of a step.

    Raises:
      ValueError: gamma is negative or steps below 1.
    """
    if gamma < 0 or steps < 1:
        raise ValueError(f"gamma is {gamma} and steps {steps}; they must be at least 0 and 1.")
    keys = jax.random.split(jax.random.key(seed), 4)
    pairs = draw_pairs(keys[0], TRAIN)
    params = _train(init_layer(keys[1]), pairs, keys[2], gamma, steps, batch)
    return _validate(params, draw_pairs(keys[3], VALIDATION), gamma)


@functools.partial(jax.jit, static_argnames=("steps", "batch"))
def _train(
    params: Layer, pairs: tuple[Array, Array], key: Array, gamma: float, steps: int, batch: int
) -> Layer:
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, steps))

    def loss(params: Layer, x: Array, y: Array, probes: Array) -> Array:
        args = (params, x)
        z, _ = equilibrium(layer, jnp.zeros_like(x), args, solver=TRAINING)
        return ((z - y) ** 2).mean() + gamma * jacobian_loss(layer, z, args, probes, probes=1)

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, state = carry
        choice, probes = jax.random.split(key)
        x, y = (part[jax.random.randint(choice, (batch,), 0, TRAIN)] for part in pairs)
        updates, state = optimizer.update(jax.grad(loss)(params, x, y, probes), state)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    return jax.lax.scan(step, start, jax.random.split(key, steps))[0][0]


def _validate(params: Layer, pairs: tuple[Array, Array], gamma: float) -> Outcome:
    x, y = pairs
    args = (params, x)
    result = solve(layer, jnp.zeros_like(x), args, COUNTING)
    slope = spectral_radius(layer, result.z, args, jax.random.key(0), iterations=1)
    error = ((result.z - y) ** 2).mean()
    figures = (error, result.steps.mean(), result.converged.mean(), slope.mean())
    return Outcome(gamma, *map(float, figures))


def main() -> None:
    """Print a table of several γ, and one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m mdeq_jax.apps.regression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    outcomes = []
    print("gamma     error  plain steps  converged  |slope|")
    for gamma in (0.0, 0.1, 0.5, 2.0, 8.0):
        outcomes.append(fit(gamma))
        _, error, steps, converged, slope = outcomes[-1]
        print(f"{gamma:5.1f}  {error:8.4f}  {steps:11.1f}  {converged:9.1%}  {slope:7.3f}")
    print(json.dumps([outcome._asdict() for outcome in outcomes]))


if __name__ == "__main__":
    main()
