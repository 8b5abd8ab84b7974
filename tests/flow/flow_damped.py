"""A tiny model whose equilibrium is known: the flow is the context times a factor.

    q = tanh(GAIN · context − flow),  h ← h/4 + 3q/4,  flow ← flow + h/2

in the first two channels of the hidden state; both gates are 1/2 everywhere. So h = 0 and
flow = GAIN · context at the equilibrium, where the Jacobian has spectral radius 1/2.
"""

import functools

import jax
import numpy as np

from mdeq_jax.flow.experiment import Config, create_experiment
from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.flow.stream import FlowStream
from mdeq_jax.training.config import override
from mdeq_jax.training.weights import Trained

GAIN = 0.3
CONFIG = override(
    Config(
        model=ModelConfig(
            encoder=(8, 8, 8),
            features=8,
            hidden=4,
            correlation=(8, 8),
            flow=(8, 4),
            motion=8,
            head=4,
            mask=8,
            levels=2,
            radius=1,
            weight_norm=False,
        )
    ),
    {"solver.forward.tol": 1e-5, "evaluation.steps": 60},
)
SIZE = (64, 64)


@functools.cache
def damped():
    """The trained model, and its experiment."""
    experiment = create_experiment(CONFIG)
    variables = random_like(jax.eval_shape(experiment.init, jax.random.key(0)))
    update = jax.tree.map(np.zeros_like, variables["params"]["update"])
    hidden, context, flow = 0, CONFIG.model.hidden, -2
    for axis in (0, 1):
        for name in ("candidate1", "candidate2"):
            _set(update["gru"][name], {(context + axis, axis): GAIN, (flow + axis, axis): -1})
        # h = relu(h) − relu(−h)
        plus, minus = 2 * axis, 2 * axis + 1
        _set(update["head_conv1"], {(hidden + axis, plus): 1, (hidden + axis, minus): -1})
        _set(update["head_conv2"], {(plus, axis): 0.5, (minus, axis): -0.5})
    variables["params"]["update"] = update
    return Trained(variables, CONFIG, 0), experiment


def random_like(shapes):
    """Kernels of random numbers, without biases; compiling a model's own init takes seconds."""
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        name, size = path[-1].key, leaf.shape
        if name in ("kernel", "v"):
            return generator.normal(0, np.prod(size[:-1]) ** -0.5, size).astype(np.float32)
        return np.full(size, name in ("scale", "var", "g"), np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _set(conv, entries):
    """Set entries (input channel, output channel) of the middle of a kernel."""
    rows, columns, *_ = conv["kernel"].shape
    for (taken, given), value in entries.items():
        conv["kernel"][rows // 2, columns // 2, taken, given] = value


@functools.cache
def stream(**options):
    """A stream of the model; equal options share one, so that it is compiled once."""
    return FlowStream(*damped(), **options)
