"""Cells with one fixed point, and the derivatives they are checked against."""

import jax
import jax.numpy as jnp
import numpy as np

from mdeq_jax.implicit import equilibrium
from mdeq_jax.solvers import Picard

TIGHT = Picard(max_steps=200, tol=1e-13)  # compiles quickest


def layer(z, args):
    """Tanh of z W + x U + b."""
    return jnp.tanh(z @ args["weight"] + args["x"] @ args["inject"] + jnp.atleast_2d(args["bias"]))


def random_args(size=3, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(dim, dim))
    return {
        "weight": jnp.asarray(0.7 * weight / np.linalg.norm(weight, ord=2)),
        "inject": jnp.asarray(rng.normal(size=(2, dim))),
        "x": jnp.asarray(rng.normal(size=(size, 2))),
        "bias": jnp.asarray(rng.normal(size=dim)),
    }


def start(args):
    return jnp.zeros((len(args["x"]), args["weight"].shape[-1]), args["weight"].dtype)


def readout(args, **options):
    """A loss that no symmetry makes special: Σ sin(c z*), c = 1, 2, ..."""
    z, _ = equilibrium(layer, start(args), args, **({"solver": TIGHT} | options))
    return jnp.sum(jnp.sin(z * jnp.arange(1, z.size + 1, dtype=z.dtype).reshape(z.shape)))


def force(args):
    """Loss on a gradient with respect to an input: from energy to force."""
    by_x = jax.grad(lambda x: readout({**args, "x": x}))(args["x"])
    return jnp.sum(by_x**2)


def dense_gradient(z, g, args):
    """Gradients of `layer`'s arguments for the cotangent g of z*, by u = g (I − J)⁻¹ in numpy."""
    args = {name: np.asarray(value) for name, value in args.items()}
    slope = 1 - z**2
    jacobian = slope[:, :, None] * args["weight"].T  # (B, of f, by z)
    u = np.linalg.solve((np.eye(z.shape[1]) - jacobian).swapaxes(1, 2), g[..., None])[..., 0]
    pulled = u * slope
    return {
        "weight": z.T @ pulled,
        "inject": args["x"].T @ pulled,
        "x": pulled @ args["inject"].T,
        "bias": pulled.sum(axis=0),
    }


def assert_slopes(function, gradient, at, eps=1e-5, rtol=1e-6):
    """Compare a gradient with central differences along a random direction in every leaf."""
    leaves, structure = jax.tree.flatten(at)
    rng = np.random.default_rng(5)
    for i, leaf in enumerate(leaves):
        direction = jnp.asarray(rng.normal(size=leaf.shape))

        def moved(by, i=i, leaf=leaf, direction=direction):
            return structure.unflatten([*leaves[:i], leaf + by * direction, *leaves[i + 1 :]])

        slope = (function(moved(eps)) - function(moved(-eps))) / (2 * eps)
        ours = jnp.sum(jax.tree.leaves(gradient)[i] * direction)
        np.testing.assert_allclose(ours, slope, rtol=rtol, atol=1e-8)
