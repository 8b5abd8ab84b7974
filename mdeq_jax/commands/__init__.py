"""The commands `mdeq-train` and `mdeq-eval`, which train.py and eval.py run in a checkout."""
