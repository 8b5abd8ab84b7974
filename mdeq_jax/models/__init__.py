"""Flax Linen models: MDEQ and what it is made of."""

from mdeq_jax.models.cell import MDEQCell
from mdeq_jax.models.config import ModelConfig
from mdeq_jax.models.mdeq import MDEQ, FixedPointProblem, ModelInfo, create_model

__all__ = ["MDEQ", "FixedPointProblem", "MDEQCell", "ModelConfig", "ModelInfo", "create_model"]
