"""Train a model of any application.

    python train.py --config configs/digits.py --workdir runs/digits --config.seed=1

The way of a training step, from here to the solver:

    mdeq_jax/commands/train.py            the command, also called mdeq-train
    mdeq_jax/training/loop.py             config → experiment → state → steps, until the last one
    mdeq_jax/training/steps.py            train_step(state, batch) -> (state, metrics)
    mdeq_jax/vision/experiment.py         MDEQ on images: forward pass, loss, metrics
    mdeq_jax/vision/model/mdeq.py         stem, equilibrium of the cell, head
    mdeq_jax/implicit/deq.py              the equilibrium layer and its implicit gradient
    mdeq_jax/solvers/loop.py              the loop of every solver
    mdeq_jax/solvers/broyden.py           the default solver

What a run is made of stands in configs/digits.py; mdeq_jax/training/config.py and
mdeq_jax/vision/config.py list every key. What the loop asks of an application is
mdeq_jax/training/experiment.py.
"""

from mdeq_jax.commands.train import run

if __name__ == "__main__":
    run()
