"""Configs of experiments: one file each, with a function `get_config`."""
