"""Evaluate a checkpoint.

    python eval.py --config configs/digits.py --checkpoint runs/digits

The command itself, which is `mdeq-eval` too, is mdeq_jax/commands/eval.py; it reuses all that
train.py names but the optimizer.
"""

from mdeq_jax.commands.eval import run

if __name__ == "__main__":
    run()
