"""Sudoku of side 4, solved by a transformer block, on a CPU in minutes.

    python train.py --config configs/sudoku4.py --workdir runs/sudoku4
    python -m mdeq_jax.commands.reason --checkpoint runs/sudoku4 --steps 2,4,8,16,32

The recipe is the one of Equilibrium Reasoners, made small: random initial states, noise and damping
in the iteration, a gradient through the last steps only, several supervised segments for each
problem, a halting head, and an average of the parameters. No data are downloaded: the puzzles are
generated, each with a unique solution and none of its digits to spare.

Source: Huang, Geng, Kolter, "Equilibrium Reasoners: Learning Attractors Enables Scalable
Reasoning", arXiv 2605.21488, locuslab/EqR.
"""

from ml_collections import ConfigDict

from mdeq_jax.reasoning.config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    config = to_config_dict(Config())
    config.data.task = "sudoku"
    config.data.size = 4
    config.data.eval_problems = 400
    config.model.kind = "transformer"
    config.model.width = 64
    config.model.halting = True
    config.solver.forward.max_steps = 6
    config.solver.forward.damping = 0.95
    config.solver.forward.noise = 0.01
    config.adjoint.steps = 3
    config.adjoint.damping = 0.95
    config.loss.segments = 4
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 100
    config.optim.weight_decay = 0.1
    config.optim.weight_decay_mode = "decoupled"
    config.optim.ema_decay = 0.99
    config.train.steps = 600
    config.train.eval_every = 600
    config.train.fewest_solver_steps = None
    config.train.initial_state = "normal"
    config.evaluation.initial_state = "normal"
    config.evaluation.sizes = (4,)
    config.evaluation.steps = (32,)
    return config
