"""Inverse problems and other optimisation over the input of an equilibrium."""
