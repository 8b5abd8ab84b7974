"""Adversarial training of an equilibrium classifier, and its control, training against PGD."""
