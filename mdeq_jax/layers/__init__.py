"""Layers that the models of several applications use."""
