"""Bi-level optimisation: choose the penalty of a logistic regression by its validation loss."""
