"""A trained model applied to your own images: `python -m mdeq_jax.commands.predict`."""
