"""Checkpoints: saving, resuming and reading."""

from mdeq_jax.training.checkpoints import Checkpoint, Checkpointer, load_checkpoint

__all__ = ["Checkpoint", "Checkpointer", "load_checkpoint"]
