"""Optical flow as an equilibrium: DEQ-Flow, its data, training and streams."""
