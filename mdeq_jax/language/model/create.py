"""The model of an architecture."""

from mdeq_jax.checks import require_one_of, require_whole
from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.language.model.language_model import LanguageModel


def create_model(config: ModelConfig, vocabulary: int, dtype: str | None = None) -> LanguageModel:
    """Return the language model of an architecture.

    Args:
      config: the architecture.
      vocabulary: number of words.
      dtype: dtype in which the linear maps compute, "bfloat16" or None. None is the dtype of the
        parameters.

    Raises:
      ValueError: the vocabulary is not above the last cutoff, or the dtype is another one.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> model = create_model(ModelConfig.published("deq"), 267735)
      >>> tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
      >>> sum(x.size for x in jax.tree.leaves(variables))
      97691888
    """
    require_whole("vocabulary", vocabulary, max(config.cutoffs, default=0) + 1)
    require_one_of("dtype", dtype, (None, "bfloat16"))
    return LanguageModel(config, vocabulary, dtype)
