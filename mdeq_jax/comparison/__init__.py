"""Train one config under several settings, measure all alike, and write one report."""
