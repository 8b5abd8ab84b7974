"""Language modelling: the equilibrium transformer of words, characters or bytes."""
