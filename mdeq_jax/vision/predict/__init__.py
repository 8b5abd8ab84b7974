"""A trained model on images of one's own: `python -m mdeq_jax.commands.predict`."""
