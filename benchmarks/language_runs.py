"""Language models trained under several settings and seeds, and evaluated in several ways."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.results import Row
from mdeq_jax.language.config import Config
from mdeq_jax.language.experiment import create_experiment
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.loop import train
from mdeq_jax.training.mesh import create_mesh, replicate
from mdeq_jax.training.metrics import NonFiniteError

# The largest numbers of solver steps, and the memories, of the evaluations.
STEPS = (6, 12, 24)
MEMORIES = (0, 8, 16, 32, 64, 128)
_RADIUS_ITERATIONS = 50
_PLAIN = {"jacobian.probability": 0.0}
COLUMNS = (
    "bits",
    *(f"{name}_steps{n}" for n in STEPS for name in ("bits", "residual", "radius")),
    *(f"bits_memory{m}" for m in MEMORIES),
    "trigram_bits",
    "wall_s",
)


def unrolled(steps: int) -> dict[str, Any]:
    """Return the keys of a network of `steps` tied layers: the cell is applied, and never solved.

    Args:
      steps: number of applications.
    """
    return _PLAIN | {"train.pretrain_steps": 10**9, "train.num_layers": steps}


def settings(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes of each setting, by its name.

    Args:
      config: a config with Jacobian regularisation, and a "post" cell.
    """
    return {
        "post": _PLAIN,
        "post regularised": {},
        "pre": _PLAIN | {"model.kind": "pre"},
        "pre regularised": {"model.kind": "pre"},
        "unrolled": unrolled(config.solver.forward.max_steps),
    }


SETTINGS = tuple(settings(Config()))


def train_and_evaluate(config: Config, workdir: Path) -> Row:
    """Train, or continue to, and evaluate.

    Args:
      config: the config, whose score is in bits.
      workdir: folder of the run.

    Returns:
      COLUMNS. "bits" is the score of training: with the solver of the config, or unrolled. All
      others are of equilibria: bits, residual and the spectral radius of the cell's Jacobian after
      at most N solver steps, and bits with a memory of M positions. "wall_s" is the time of
      training in seconds. All are None if training ended with a loss that was not finite.
    """
    config = override(config, {"evaluation.memories": (), "evaluation.steps": ()})
    try:
        trained = train(create_experiment(config), workdir)
    except NonFiniteError:
        return dict.fromkeys(COLUMNS)
    by_steps = {"evaluation.steps": STEPS, "train.spectral_radius_iterations": _RADIUS_ITERATIONS}
    mesh, metrics = create_mesh(), {}
    variables = replicate(jax.device_get(trained.state.eval_variables), mesh)
    for changes in (by_steps, {"evaluation.memories": MEMORIES}):
        experiment = create_experiment(override(config, changes))
        metrics |= Evaluator(experiment, mesh)(variables, unrolled=None)
    score = experiment.score.name
    names = {"bits": score, "residual": "eval/residual", "radius": "eval/spectral_radius"}
    found = {"bits": trained.metrics[score], "wall_s": trained.metrics["wall_s"]}
    found["trigram_bits"] = metrics["eval/trigram_bits"]
    for column in COLUMNS:
        name, _, way = column.rpartition("_")
        if name in names:
            found[column] = metrics[f"{names[name]}_{way}"]
    return {column: found[column] for column in COLUMNS}


def summarise(rows: list[Row]) -> list[Row]:
    """Return a row for each setting: means over the seeds that ended well, and deviations of bits.

    Args:
      rows: rows of `train_and_evaluate` with their setting.
    """
    summary = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        runs = [row for row in rows if row["setting"] == setting]
        finite = [row for row in runs if row["bits"] is not None]
        line: Row = {"setting": setting, "seeds": len(runs), "not_finite": len(runs) - len(finite)}
        for column in COLUMNS:
            values = [row[column] for row in finite]
            line[column] = float(np.mean(values)) if values else None
            if column.startswith("bits"):
                line[f"{column}_std"] = float(np.std(values)) if values else None
        summary.append(line)
    return summary
