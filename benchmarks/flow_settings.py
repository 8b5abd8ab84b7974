"""DEQ-Flow trained under several settings and seeds, and evaluated with more and more steps."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.flow_memory import recurrent
from benchmarks.results import Row
from mdeq_jax.flow.config import Config
from mdeq_jax.flow.experiment import create_experiment
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.loop import train
from mdeq_jax.training.mesh import create_mesh, replicate

# The numbers of steps of the evaluations, as multiples of the steps of training.
FACTORS = (1, 2, 3)
SETTINGS = ("equilibrium", "no correction", "recurrent")
# Name of the metrics of the state after exactly so many applications, and of the solver's result,
# which is the iterate of the lowest residual.
STATES = ("last", "best")
_METRICS = ("epe", "epe_zero", "residual")


def settings(config: Config) -> dict[str, dict[str, Any]]:
    """Return the keys of each setting, which all take the solver steps of the config."""
    changes = {}, {"correction.states": 1}, recurrent(config.solver.forward.max_steps)
    return dict(zip(SETTINGS, changes, strict=True))


def train_and_evaluate(config: Config, workdir: Path) -> Row:
    """Train, or continue to, and evaluate with 1, 2 and 3 times the solver steps of training.

    Args:
      config: the config, with the single evaluation "shapes".
      workdir: folder of the run.

    Returns:
      "last/METRIC_K" and "best/METRIC_K", for K times the steps: epe, epe_zero (of zero flow) and
      residual of the state after exactly these steps, and of the iterate with the lowest residual,
      which a solver with the tolerance 0 returns. And wall_s, the time of training in seconds.
    """
    result = train(create_experiment(config), workdir)
    found: Row = {"wall_s": result.metrics["wall_s"]}
    mesh = create_mesh()
    variables = replicate(jax.device_get(result.state.eval_variables), mesh)
    for factor in FACTORS:
        steps = factor * config.solver.forward.max_steps
        changes = {"evaluation.steps": steps, "solver.forward.tol": 0.0}
        evaluator = Evaluator(create_experiment(override(config, changes)), mesh)
        for state, unrolled in zip(STATES, (steps, None), strict=True):
            metrics = evaluator(variables, unrolled=unrolled)
            for name in _METRICS:
                found[f"{state}/{name}_{factor}"] = metrics[f"eval/{name}"]
    return found


def summarise(rows: list[Row]) -> list[Row]:
    """Return a row for each setting and number of steps: means and deviations over the seeds."""
    summary = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        runs = [row for row in rows if row["setting"] == setting]
        for factor in FACTORS:
            line: Row = {"setting": setting, "times_steps": factor, "seeds": len(runs)}
            for state in STATES:
                errors = [run[f"{state}/epe_{factor}"] for run in runs]
                residuals = [run[f"{state}/residual_{factor}"] for run in runs]
                line[f"{state}_epe"] = float(np.mean(errors))
                line[f"{state}_epe_std"] = float(np.std(errors))
                line[f"{state}_residual"] = float(np.mean(residuals))
            zero = [run[f"best/epe_zero_{factor}"] for run in runs]
            summary.append({**line, "epe_zero": float(np.mean(zero))})
    return summary
