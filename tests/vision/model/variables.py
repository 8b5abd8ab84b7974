"""Variables of a model without the time that drawing them by `init` takes."""

import jax
import jax.numpy as jnp
import numpy as np

from mdeq_jax.vision.model import create_model


def make_images(*shape, dtype=np.float32):
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def make_variables(config, images, dtype=np.float32):
    """Random numbers in the shapes of `init`: about 1 for lengths, scales and variances."""
    shapes = jax.eval_shape(create_model(config).init, jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.uniform(-0.3, 0.3, size=leaf.shape)
        about_one = path[-1].key in ("g", "scale", "var")
        return jnp.asarray(values + about_one, dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
