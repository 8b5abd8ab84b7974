"""Bi-level optimisation: the penalty of a logistic regression, by its validation loss."""
