"""The model of an architecture, and its variables with and without weight norm."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.flow.model.flow_net import FlowNet
from mdeq_jax.layers import weight_norm


def create_model(
    config: ModelConfig, axis_name: str | None = None, dtype: str | None = None
) -> FlowNet:
    """Return the Flax module of an architecture.

    Args:
      config: the architecture.
      axis_name: mesh axis over which BatchNorm averages, for training under `shard_map`.
      dtype: dtype in which encoders and cell compute, "bfloat16" or None. None is the dtype of
        images and parameters.

    Examples:
      >>> model = create_model(ModelConfig.published("tiny"))
      >>> variables = jax.eval_shape(lambda key: init_variables(model, key), jax.random.key(0))
      >>> sum(x.size for x in jax.tree.leaves(variables["params"]))
      2490976
    """
    return FlowNet(config, axis_name, dtype)


def init_variables(model: FlowNet, key: PRNGKeyArray) -> dict[str, PyTree]:
    """Return random variables, float32; weight-normed kernels as direction and length.

    Args:
      model: the model.
      key: the random key.

    Returns:
      "params" and "batch_stats". Give them to `merge_weight_norm` before `model.apply`.
    """
    side = model.config.smallest_side
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    # Without an axis name, because the initial values are made outside of `shard_map`.
    variables = dict(model.copy(axis_name=None).lazy_init(key, images, images))
    if model.config.weight_norm:
        variables["params"] = weight_norm.split(variables["params"], lambda name: name == "update")
    return variables


def merge_weight_norm(variables: Mapping[str, Any]) -> dict[str, PyTree]:
    """Return the variables with plain kernels, which `FlowNet` takes.

    Args:
      variables: variables as `init_variables` returns them, with or without weight norm.
    """
    return {**variables, "params": weight_norm.merge(variables["params"])}
