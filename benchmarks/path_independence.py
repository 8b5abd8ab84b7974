"""Does path independence tell which models can use more steps? Train under settings, and compare.

    python -m benchmarks.path_independence --task prefix_sums --workdir runs/path_independence
    python -m benchmarks.path_independence --task mazes --workdir runs/mazes --seeds 0,1,2

Each setting changes how solves start, how deep they go or how the gradient is found, and is trained
from each seed. A line of results.jsonl in the workdir has the accuracy, the asymptotic alignment
score and the residual on each size, and the area under the curve with which a problem's alignment
tells whether its answer is right. The same command continues. The table and the rank correlation
are printed at the end.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from sklearn.metrics import roc_auc_score

from mdeq_jax.reasoning.config import Config
from mdeq_jax.reasoning.experiment import Reasoning, create_experiment
from mdeq_jax.reasoning.scaling import make_attempts
from mdeq_jax.training.config import override
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.loop import train
from mdeq_jax.training.mesh import create_mesh, replicate
from mdeq_jax.training.sections import from_mapping
from mdeq_jax.viz.reasoning import plot_alignment_against_accuracy, rank_correlation

ZEROS = {"train.initial_state": "zeros"}
FIXED = {"train.fewest_solver_steps": None}
# Ordinary backpropagation through a fixed number of applications, which is never solved.
TAPED = {"train.pretrain_steps": 10**6}
SETTINGS: dict[str, dict[str, Any]] = {
    "mixed samples": {},
    "mixed entries": {"train.initial_state": "mixed"},
    "normal": {"train.initial_state": "normal"},
    "zeros": ZEROS,
    "zeros, fixed depth": ZEROS | FIXED,
    "mixed samples, fixed depth": FIXED,
    "5 taped": ZEROS | TAPED | {"train.num_layers": 5},
    "5 taped, mixed samples": TAPED | {"train.num_layers": 5},
    "10 taped": ZEROS | TAPED | {"train.num_layers": 10},
    "1 phantom step": {"adjoint.steps": 1},
    "exact gradient": {
        "adjoint.name": "exact",
        "adjoint.steps": None,
        "adjoint.damping": None,
        "solver.forward.max_steps": 17,
    },
    "alignment promoted": ZEROS | {"loss.alignment_weight": -0.3},
    "alignment penalised": ZEROS | {"loss.alignment_weight": 0.3},
    "alignment penalised strongly": ZEROS | {"loss.alignment_weight": 1.0},
}


def run(experiment: Reasoning, workdir: Path) -> dict[str, Any]:
    """Train, and return the metrics of the final evaluation and the areas under the curves."""
    result = train(experiment, workdir)
    options, areas = experiment.config.evaluation, {}
    variables, mesh = jax.device_get(result.state.eval_variables), create_mesh()
    # Training by unrolling evaluates at its own depth; here all take the same numbers of steps.
    metrics = Evaluator(experiment, mesh)(replicate(variables, mesh), unrolled=None)
    own_depth = {f"own_depth/{k}": v for k, v in result.metrics.items() if "exact" in k}
    for size, steps in zip(options.sizes, options.steps, strict=True):
        attempts, right, alignments = make_attempts(experiment, (steps,), 1), [], []
        for batch in experiment.test_batches(size):
            found = attempts(variables, experiment.prepare(batch), jax.random.key(0))
            truth = np.where(batch["counted"], batch["targets"], 0)
            right += [(np.asarray(found.answers)[:, 0, 0] == truth).all((1, 2))[batch["mask"]]]
            alignments += [np.asarray(found.alignment)[batch["mask"], 0]]
        right, alignments = np.concatenate(right), np.concatenate(alignments)
        if right.any() and not right.all():
            areas[f"area_{size}"] = float(roc_auc_score(right, alignments))
    kept = ("eval/exact_", "eval/alignment_", "eval/residual_")
    return {k: v for k, v in metrics.items() if k.startswith(kept)} | own_depth | areas


def table(rows: list[dict[str, Any]], sizes: tuple[int, ...]) -> str:
    """Return the results as a table of means over seeds, and the rank correlation over all runs."""
    names = [f"{kind}_{size}" for size in sizes for kind in ("exact", "alignment", "area")]
    lines = [f"{'setting':30}" + "".join(f"{name:>14}" for name in names)]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        runs = [row for row in rows if row["setting"] == setting]
        line = f"{setting:30}"
        for name in names:
            key = name if name.startswith("area") else f"eval/{name}"
            values = [row[key] for row in runs if key in row]
            line += f"{np.mean(values):8.3f} ±{np.std(values):4.2f}" if values else " " * 14
        lines.append(line)
    for size in sizes[1:]:
        correlation = rank_correlation(*alignments_and_accuracies(rows, size))
        lines.append(f"size {size}: rank correlation {correlation:.2f} of {len(rows)} runs")
    return "\n".join(lines)


def alignments_and_accuracies(
    rows: list[dict[str, Any]], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the alignment score and the accuracy of each run on one size."""
    names = "alignment", "exact"
    alignments, accuracies = (np.array([row[f"eval/{x}_{size}"] for row in rows]) for x in names)
    return alignments, accuracies


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=("prefix_sums", "mazes"), default="prefix_sums")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--settings", default=";".join(SETTINGS), help="names, between semicolons")
    parser.add_argument("--steps", type=int, help="training steps in place of the config's")
    options = parser.parse_args()
    logging.set_verbosity(logging.WARNING)  # Orbax reports every save
    base: Config = from_mapping(Config(), load_config(options.task))
    if options.steps:
        base = override(base, {"train.steps": options.steps})
    options.workdir.mkdir(parents=True, exist_ok=True)
    path = options.workdir / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["setting"], row["seed"]) for row in rows}
    for seed in map(int, options.seeds.split(",")):
        for setting in options.settings.split(";"):
            if (setting, seed) in done:
                continue
            config = override(base, SETTINGS[setting] | {"seed": seed})
            name = f"{setting.replace(' ', '_').replace(',', '')}_{seed}"
            found = run(create_experiment(config), options.workdir / name)
            rows.append({"setting": setting, "seed": seed, **found})
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    sizes = base.evaluation.sizes
    print(table(rows, sizes))
    for size in sizes[1:]:
        points = alignments_and_accuracies(rows, size)
        path, kinds = options.workdir / f"alignment_{size}.png", [row["setting"] for row in rows]
        title = f"{len(rows)} trained models, size {size}"
        plot_alignment_against_accuracy(*points, path, title=title, kinds=kinds)


if __name__ == "__main__":
    main()
