"""A generator whose latent codes are optimised, and inverse problems that it solves."""
