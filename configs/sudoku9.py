"""Sudoku of side 9, the recipe of Equilibrium Reasoners at its own width, for one GPU.

    python train.py --config configs/sudoku9.py --workdir runs/sudoku9
    python -m mdeq_jax.commands.reason --checkpoint runs/sudoku9 --steps 18,64,256,1024

Generating 20,000 puzzles takes some minutes. --config.data.root=FOLDER reads Sudoku-Extreme's
train.csv and test.csv instead. Width, depth, segments, noise, damping and the average of the
parameters are those of the source; Adam with decoupled weight decay takes the place of AdamATan2,
and its augmentation of 1,000 puzzles gives way to more puzzles.

Source: Huang, Geng, Kolter, "Equilibrium Reasoners: Learning Attractors Enables Scalable
Reasoning", arXiv 2605.21488, locuslab/EqR.
"""

from ml_collections import ConfigDict

from mdeq_jax.training.config_files import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("sudoku4")
    config.data.size = 9
    config.data.batch_size = 768
    config.data.eval_batch_size = 500
    config.data.train_problems = 20_000
    config.data.eval_problems = 1_000
    config.model.width = 512
    config.model.heads = 8
    config.model.mixing = "mlp"
    config.solver.forward.max_steps = 12
    config.adjoint.steps = 6
    config.loss.segments = 16
    config.optim.learning_rate = 1e-4
    config.optim.warmup_steps = 2000
    config.optim.schedule = "constant"
    config.optim.weight_decay = 1.0
    config.optim.ema_decay = 0.999
    config.train.steps = 60_000
    config.train.eval_every = 2_000
    config.evaluation.sizes = (9,)
    config.evaluation.steps = (288,)
    config.dtype = "bfloat16"
    return config
