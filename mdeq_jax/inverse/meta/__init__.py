"""Meta-learning with a task vector that is optimised together with the equilibrium."""
