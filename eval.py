"""Evaluate a checkpoint.

    python eval.py --config configs/digits.py --checkpoint runs/digits

The command itself, also called `mdeq-eval`, is mdeq_jax/commands/eval.py. It reuses all parts that
train.py names, except the optimizer.
"""

from mdeq_jax.commands.eval import run

if __name__ == "__main__":
    run()
