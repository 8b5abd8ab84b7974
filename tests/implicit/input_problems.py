"""Problems of optimising over the input of an equilibrium, small enough for dense algebra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mdeq_jax.implicit import DEQ, Steps, optimise
from mdeq_jax.solvers import Picard

DIM, INPUTS = 5, 3
# It compiles quickest; the problems below contract.
DEQ_TIGHT = DEQ(Picard(max_steps=300, tol=1e-13))
STEPS = Steps(z=0.9, mu=0.9, x=0.3)


def random_args(size=3, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(DIM, DIM))
    inject = rng.normal(size=(INPUTS, DIM))
    return {
        "weight": jnp.asarray(0.4 * weight / np.linalg.norm(weight, ord=2)),
        "inject": jnp.asarray(0.6 * inject / np.linalg.norm(inject, ord=2)),
        "bias": jnp.asarray(0.3 * rng.normal(size=(size, DIM))),
        "target": jnp.asarray(rng.normal(size=(size, DIM))),
        "price": jnp.asarray(1.0),
        "radius": jnp.asarray(0.1),
    }


def linear(z, x, args):
    return z @ args["weight"] + x @ args["inject"] + args["bias"]


def nonlinear(z, x, args):
    return jnp.tanh(z @ args["weight"] + x @ args["inject"]) + args["bias"]


def cost(z, x, args):
    """½‖z − target‖² + ½ price ‖x‖², for each sample."""
    distance = jnp.sum((z - args["target"]) ** 2, axis=-1)
    return (distance + args["price"] * jnp.sum(x**2, axis=-1)) / 2


def starts(args):
    size = len(args["target"])
    return jnp.zeros((size, DIM)), jnp.zeros((size, INPUTS))


def solved(args, f=nonlinear, **options):
    """The optimum; options are those of `optimise`."""
    return optimise(f, cost, *starts(args), args, **({"deq": DEQ_TIGHT, "steps": STEPS} | options))


def onto_ball(args):
    """The projection onto the inputs of a norm of at most the radius."""

    def project(x):
        length = jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))
        return jnp.where(length > args["radius"], x * (args["radius"] / length), x)

    return project


def readout(optimum):
    """A loss that is not the cost, and that no symmetry makes special."""
    flat = jnp.concatenate([optimum.z, optimum.x, optimum.mu], axis=-1)
    return jnp.sum(jnp.sin(flat * jnp.linspace(1.0, 2.0, flat.size).reshape(flat.shape)))


def total_cost(optimum):
    return jnp.sum(optimum.cost * jnp.arange(1.0, len(optimum.cost) + 1))


close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10)


def trees_close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(close, a, b)
