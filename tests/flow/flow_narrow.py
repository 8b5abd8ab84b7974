"""An architecture for tests."""

from mdeq_jax.flow.model.config import ModelConfig

NARROW = ModelConfig(
    encoder=(4, 6, 8),
    features=8,
    hidden=6,
    correlation=(8, 6),
    flow=(6, 4),
    motion=6,
    head=8,
    mask=8,
    levels=2,
    radius=1,
)
