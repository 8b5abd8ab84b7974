"""Checkpoints: saving, resuming and reading."""

from mdeq_jax.checkpoint.orbax_io import Checkpoint, Checkpointer, load_checkpoint

__all__ = ["Checkpoint", "Checkpointer", "load_checkpoint"]
