"""MDEQ on images, as an experiment for the training loop."""

from mdeq_jax.vision.config import Config

__all__ = ["Config"]
