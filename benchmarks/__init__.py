"""Measurements; RESULTS.md has their figures."""
