"""A tiny model whose equilibrium is known: the flow is the context times a factor.

    q = tanh(GAIN · context − flow),  h ← h/4 + 3q/4,  flow ← flow + h/2

in the first two channels of the hidden state; both gates are 1/2 everywhere. So h = 0 and
flow = GAIN · context at the equilibrium, where the Jacobian has spectral radius 1/2.
"""

import functools

import jax
import jax.numpy as jnp

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
    variables = experiment.init(jax.random.key(0))
    update = jax.tree.map(jnp.zeros_like, variables["params"]["update"])
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


def _set(conv, entries):
    """Set entries (input channel, output channel) of the middle of a kernel."""
    rows, columns, *_ = conv["kernel"].shape
    for (taken, given), value in entries.items():
        place = rows // 2, columns // 2, taken, given
        conv["kernel"] = conv["kernel"].at[place].set(value)


@functools.cache
def stream(**options):
    """A stream of the model; equal options share one, so that it is compiled once."""
    return FlowStream(*damped(), **options)
