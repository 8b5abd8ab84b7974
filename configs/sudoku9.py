"""Sudoku of side 9, the recipe of Equilibrium Reasoning at its own width, for one GPU.

    python train.py --config configs/sudoku9.py --workdir runs/sudoku9
    python -m mdeq_jax.commands.reason --checkpoint runs/sudoku9 --steps 18,64,256,1024

Generating 20,000 puzzles takes some minutes. --config.data.root=FOLDER reads Sudoku-Extreme's
train.csv and test.csv instead. Width, depth, segments, noise, damping and the average of the
parameters are those of the source; Adam with decoupled weight decay takes the place of AdamATan2,
and its augmentation of 1,000 puzzles gives way to more puzzles.

Source: Huang, Geng, Kolter, "Equilibrium Reasoning", ICML 2026, locuslab/EqR.
"""

from ml_collections import ConfigDict

from mdeq_jax.reasoning.config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    config = to_config_dict(Config())
    config.data.task = "sudoku"
    config.data.size = 9
    config.data.batch_size = 768
    config.data.eval_batch_size = 500
    config.data.train_problems = 20_000
    config.data.eval_problems = 1_000
    config.model.kind = "transformer"
    config.model.width = 512
    config.model.heads = 8
    config.model.mixing = "mlp"
    config.model.halting = True
    config.solver.forward.max_steps = 12
    config.solver.forward.damping = 0.95
    config.solver.forward.noise = 0.01
    config.adjoint.steps = 6
    config.adjoint.damping = 0.95
    config.loss.segments = 16
    config.optim.learning_rate = 1e-4
    config.optim.warmup_steps = 2000
    config.optim.schedule = "constant"
    config.optim.weight_decay = 1.0
    config.optim.weight_decay_mode = "decoupled"
    config.optim.ema_decay = 0.999
    config.train.steps = 60_000
    config.train.eval_every = 2_000
    config.train.fewest_solver_steps = None
    config.train.initial_state = "normal"
    config.evaluation.initial_state = "normal"
    config.evaluation.sizes = (9,)
    config.evaluation.steps = (288,)
    config.dtype = "bfloat16"
    return config
