"""The state of training, one pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree, UInt32

from mdeq_jax.training.experiment import Experiment, Variables
from mdeq_jax.training.mesh import AXIS, replicate, shard


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a training step reads and writes.

    Attributes:
      step: () int32, steps taken.
      params: trainable parameters.
      collections: the other Flax collections by name, such as "batch_stats"; possibly none.
      opt_state: the optimizer's state.
      key: (2,) uint32, from which each step folds its own random numbers.
      carry: values that each row of a batch passes on to the next batch, leaves (B, ...); () if
        there are none.
      ema: moving average of the parameters; None if the run keeps no average.
    """

    step: Int[Array, ""]
    params: PyTree
    collections: dict[str, PyTree]
    opt_state: optax.OptState
    key: UInt32[Array, "2"]
    carry: PyTree = ()
    ema: PyTree = None

    @property
    def variables(self) -> Variables:
        """The variables that training applies the model with."""
        return {"params": self.params, **self.collections}

    @property
    def eval_variables(self) -> Variables:
        """The variables for evaluation, with the averaged parameters if there is an average."""
        return {**self.variables, "params": self.params if self.ema is None else self.ema}


# How each part of the state is spread over the devices: rows of a batch are split, the rest copied.
_COPIED: Any = PartitionSpec()
STATE_SPECS = TrainState(
    step=_COPIED,
    params=_COPIED,
    collections=_COPIED,
    opt_state=_COPIED,
    key=_COPIED,
    carry=PartitionSpec(AXIS),
    ema=_COPIED,
)


def create_state(experiment: Experiment, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step, with this process's rows of the carry.

    Args:
      experiment: the experiment; config.seed is the seed of the initial parameters and of the key.
      optimizer: the optimizer, as `create_optimizer` returns it.
    """
    config = experiment.config
    init_key, key = jax.random.split(jax.random.PRNGKey(config.seed))
    variables = dict(jax.jit(experiment.init)(init_key))
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=variables,
        opt_state=optimizer.init(params),
        key=key,
        carry=experiment.init_carry(config.data.batch_size // jax.process_count()),
        ema=params if config.optim.ema_decay is not None else None,
    )


def place_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Put a state on the devices of a mesh: the rows of the carry are split, the rest is copied."""
    rest = replicate(dataclasses.replace(state, carry=()), mesh)
    return dataclasses.replace(rest, carry=shard(state.carry, mesh))
