"""The state of training, one pytree."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Int, PyTree, UInt32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a training step reads and writes.

    Attributes:
      step: () int32, steps taken.
      params: trainable parameters.
      batch_stats: running statistics of BatchNorm.
      opt_state: the optimizer's.
      key: (2,) uint32, from which each step folds its own random numbers.
    """

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    key: UInt32[Array, "2"]

    @property
    def variables(self) -> dict[str, PyTree]:
        """What the model is applied with."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
) -> TrainState:
    """Return the state before the first step.

    Args:
      model: as `create_model` returns it.
      optimizer: as `create_optimizer` returns it.
      image_shape: (H, W, 3) of the images.
      seed: of the initial parameters and of the key.
    """
    init_key, key = jax.random.split(jax.random.PRNGKey(seed))
    variables = jax.jit(model.init)(init_key, jnp.zeros((1, *image_shape)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        key=key,
    )
