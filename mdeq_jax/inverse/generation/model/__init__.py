"""The generator: a multiscale equilibrium whose injection is a linear map of a latent code."""
