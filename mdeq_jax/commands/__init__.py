"""The commands, one file each: `mdeq-NAME` is `python -m mdeq_jax.commands.NAME`."""

from mdeq_jax.checks import needs_extra

with needs_extra("vision"):
    from mdeq_jax.commands import cli as cli
