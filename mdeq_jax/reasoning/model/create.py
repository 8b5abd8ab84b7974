"""The model of an architecture."""

from mdeq_jax.reasoning.model.config import ModelConfig
from mdeq_jax.reasoning.model.recurrent import RecurrentNet
from mdeq_jax.reasoning.model.transformer import Transformer

Model = RecurrentNet | Transformer


def create_model(
    config: ModelConfig,
    *,
    channels: int,
    classes: int,
    size: tuple[int, int],
    dtype: str | None = None,
) -> Model:
    """Return the Flax module of an architecture.

    Its methods are `inject(inputs)` (what the cell sees of the inputs), `start(inputs, x)` (the
    initial state), `cell(z, x)`, `head(z)` (the logits) and, with `config.halting`, `halt(z)`.

    Args:
      config: the architecture.
      channels: number of channels of the inputs.
      classes: number of classes of a position.
      size: height H and width W of the grid. A recurrent model takes any other size as well; it is
        one-dimensional if H is 1.
      dtype: dtype in which the linear maps compute, "bfloat16" or None. None is the dtype of inputs
        and parameters.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> model = create_model(ModelConfig(), channels=1, classes=2, size=(1, 16))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 1, 16, 1)))
      >>> sum(x.size for x in jax.tree.leaves(variables))
      20160
    """
    if config.kind == "transformer":
        return Transformer(config, channels, classes, size, dtype)
    return RecurrentNet(config, channels, classes, 1 if size[0] == 1 else 2, dtype)
