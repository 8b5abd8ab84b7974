"""Small models with random variables, which cost no compilation."""

import jax
import numpy as np

from mdeq_jax.reasoning.model.create import create_model


def shapes(config, size, channels, classes=2, dtype=None):
    """A model, and its variables' shapes."""
    model = create_model(config, channels=channels, classes=classes, size=size, dtype=dtype)
    inputs = np.zeros((1, *size, channels), np.float32)
    return model, jax.eval_shape(model.init, jax.random.key(0), inputs)


def make(config, size, channels, classes=2, dtype=None):
    """A model, and variables drawn from N(0, 1 / fan-in)."""
    model, variables = shapes(config, size, channels, classes, dtype)
    rng = np.random.default_rng(0)

    def draw(leaf):
        return rng.normal(scale=np.prod(leaf.shape[:-1]) ** -0.5, size=leaf.shape).astype(
            leaf.dtype
        )

    return model, jax.tree.map(draw, variables)


def iterate(model, variables, inputs, steps):
    """The state after some applications."""
    bound = model.bind(variables)
    x = bound.inject(inputs)
    z = bound.start(inputs, x)
    for _ in range(steps):
        z = bound.cell(z, x)
    return z
