"""Flax Linen models whose cell reasons over a grid of positions."""
