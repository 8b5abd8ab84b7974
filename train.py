"""Train a multiscale deep equilibrium model.

    python train.py --config configs/digits.py --workdir runs/digits --config.seed=1

Config → data → model → state → loop. Each has its own file:

    configs/digits.py                     the options of this run
    mdeq_jax/training/config.py           the keys of every run, with defaults and ranges
    mdeq_jax/vision/config.py             the keys of MDEQ on images
    mdeq_jax/vision/data/pipeline.py      batches of images and labels
    mdeq_jax/vision/model/mdeq.py         stem, equilibrium of the cell, head
    mdeq_jax/training/state.py            parameters, statistics, optimizer, key: one pytree
    mdeq_jax/training/steps.py            train_step(state, batch) -> (state, metrics)
    mdeq_jax/training/loop.py             steps until the last one or a signal, then the evaluation

The command itself, also called `mdeq-train`, is mdeq_jax/commands/train.py.
"""

from mdeq_jax.commands.train import run

if __name__ == "__main__":
    run()
