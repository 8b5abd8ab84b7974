"""Flax Linen models: MDEQ and its parts."""

from mdeq_jax.layers.multiscale import MDEQCell
from mdeq_jax.vision.model.config import ModelConfig
from mdeq_jax.vision.model.mdeq import MDEQ, ModelInfo, create_model

__all__ = ["MDEQ", "MDEQCell", "ModelConfig", "ModelInfo", "create_model"]
